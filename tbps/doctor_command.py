"""`tbps data doctor`: whether a data set, or each of several that a run is to mix, can be used."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from tbps.config.data import Benchmark, LabelSetName


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own."""
    parser.add_argument("root", type=Path)
    parser.add_argument("--benchmark", choices=get_args(Benchmark), required=True)
    parser.add_argument("--decode", action="store_true", help="also decode every image")
    parser.add_argument("--all", action="store_true", help="name everything that was found, not a few examples")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--parsing",
        action="append",
        choices=get_args(LabelSetName),
        default=[],
        help="training reads these parsing maps: their faults are errors (repeat for more)",
    )
    parser.add_argument(
        "--sources", nargs="+", default=[], metavar="BENCHMARK:WEIGHT", help="a mixture, as --data.sources of a recipe"
    )
    parser.add_argument(
        "--roots", nargs="+", default=[], metavar="NAME=ROOT", help="where its other data sets lie, as --data.roots"
    )
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Print what was found; 1 where a data set cannot be used. ValueError: it cannot be read at all."""
    if not given.sources and not given.roots:
        return 0 if _examined(given.root, given.benchmark, given) else 1
    from tbps.config.data import Captioning, Data
    from tbps.data.mixture import MixedPairs, mixture_in_words, open_training_pairs

    data = Data(  # what of it is about captions, pixels and steps is not looked at
        benchmark=given.benchmark,
        root=str(given.root),
        sources=tuple(given.sources),
        roots=tuple(given.roots),
        captioning=Captioning(vocabulary="", max_words=0, max_tokens=2),
        image_px=(1, 1),
        batch_pairs=2,
        group_pairs=2,
    )
    folders = [source for source in data.mixture if not _is_packed(source.root)]
    good = [_examined(Path(source.root).expanduser(), source.benchmark, given) for source in folders]
    mixed = open_training_pairs(data)
    assert isinstance(mixed, MixedPairs)
    sys.stdout.write("\n".join(mixture_in_words(mixed)) + "\n")
    return 0 if all(good) else 1


def _examined(root: Path, benchmark: str, given: argparse.Namespace) -> bool:
    """Print the report on a data set; whether it can be used."""
    from tbps.data.dataset_doctor import examine

    report = examine(root, benchmark, decode=given.decode, workers=given.workers, parsing=given.parsing)  # type: ignore[arg-type]
    sys.stdout.write(report.text(all_names=given.all) + "\n")
    return report.usable


def _is_packed(root: str) -> bool:
    """Whether these are shards: their files were examined as they were packed, and `tbps data verify` compares them."""
    from tbps.data.remote import is_remote
    from tbps.data.shard_index import INDEX_NAME

    return is_remote(root) or (Path(root).expanduser() / INDEX_NAME).is_file()
