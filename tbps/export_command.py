"""`tbps export`: a finished run as a folder for others."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tbps export`."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder: runs/<recipe>/<name>")
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        metavar="DIR",
        help="new folder: weights, config, preprocessing, tokeniser, card; left out: RUN is such a folder, to be pushed",
    )
    parser.add_argument("--onnx", action="store_true", help="both encoders as ONNX too, and a search.py without torch")
    parser.add_argument("--licence", default="", metavar="TEXT", help="of the weights, for the model card")
    parser.add_argument("--push", metavar="NAMESPACE/NAME", help="upload the folder to the Hugging Face hub")
    parser.add_argument("--public", action="store_true", help="with --push: everybody may read it")
    parser.set_defaults(run=_export)


def _export(given: argparse.Namespace) -> None:
    from tbps.convert.hub import check_login, push
    from tbps.hand_on import export_run

    if given.out is None and not given.push:
        raise ValueError("no folder to write is named; add one, or with an exported folder --push NAMESPACE/NAME")
    if given.push:
        check_login()  # before minutes are spent on what could not be pushed
    if given.out is not None:
        text = export_run(given.run_folder, given.out, onnx=given.onnx, licence=given.licence)
        sys.stdout.write(text + "\n")
    if given.push:
        address = push(given.out or given.run_folder, given.push, public=given.public)
        sys.stdout.write(f"pushed to {address}\n")
