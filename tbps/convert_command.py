"""`tbps convert`: weights of official code, BERT, ViT, Swin and CLIP to ours; exports of runs."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tbps convert`."""
    parser.add_argument(
        "source", type=Path, help="official checkpoint, BERT, ViT, Swin or CLIP weights; with --export: a run folder"
    )
    parser.add_argument("out", type=Path, help="safetensors file to write")
    kinds = ("auto", "albef", "rasa", "mars", "aptm", "bert", "vit", "swin", "clip", "irra")
    parser.add_argument("--kind", choices=kinds, default="auto")
    parser.add_argument(
        "--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="patches of the images, where they are not square"
    )
    parser.add_argument("--export", action="store_true", help="strip a run or its checkpoint to what inference needs")
    parser.add_argument("--official", action="store_true", help="with --export: write official key names")
    parser.add_argument("--merge", action="store_true", help="with --export, of a run with adapters: merge them in")
    parser.add_argument("--force", action="store_true", help="overwrite")
    parser.set_defaults(run=_convert)


def _convert(given: argparse.Namespace) -> None:
    grid = tuple(given.grid) if given.grid else None
    if given.export:
        from tbps.convert.export import export

        merged = None
        if given.merge:
            from tbps.finished import merged_weights

            merged = partial(merged_weights, given.source)
        text = export(given.source, given.out, official=given.official, grid=grid, merged=merged, force=given.force)
    else:
        from tbps.convert.foreign import convert

        text = convert(given.source, given.out, kind=given.kind, grid=grid, force=given.force)
    sys.stdout.write(text + "\n")
