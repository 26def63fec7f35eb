"""`tbps embed`: vectors of pictures or sentences as a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tbps embed`."""
    parser.add_argument("model", metavar="MODEL", help="run folder, what tbps export wrote, or hf:NAMESPACE/NAME")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--images", type=Path, metavar="FOLDER", help="pictures at any depth, each of one person")
    what.add_argument("--captions", type=Path, metavar="FILE", help="text with a sentence on each line")
    parser.add_argument(
        "--out", type=Path, required=True, help="new file: .npy, with the names on the lines of .txt beside it, or .parquet"
    )
    parser.set_defaults(run=_embed)


def _embed(given: argparse.Namespace) -> None:
    from tbps.vectors import check_out, embed_captions, embed_folder

    check_out(given.out)
    if given.images is not None:
        text = embed_folder(given.model, given.images, given.out)
    else:
        text = embed_captions(given.model, given.captions, given.out)
    sys.stdout.write(text + "\n")
