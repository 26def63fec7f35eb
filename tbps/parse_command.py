"""`tbps parse`: a human-parsing map of every image of a data set, by a segmentation model or from SCHP's files.

Processes share the images by RANK and WORLD_SIZE, as torchrun sets them (slurm/parse.sh from Slurm's own): each writes its
maps and waits for nobody, so that one that is lost costs its own maps alone, which the same command then writes.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tbps.config.data import Benchmark, LabelSetName

if TYPE_CHECKING:
    from tbps.parsing.parser import Parser

logger = logging.getLogger(__name__)

_SCHP = {f"schp-{name}:": name for name in get_args(LabelSetName)}
LINE_S = 60.0
"""Seconds between two lines on progress, where it goes to a file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own."""
    parser.add_argument("root", type=Path, metavar="DATA", help="data set as published; maps go to its folder parsing/")
    parser.add_argument("--benchmark", choices=get_args(Benchmark), required=True)
    parser.add_argument(
        "--parser",
        required=True,
        metavar="NAME",
        help="segmentation model of people: a Hugging Face name or folder; or maps of SCHP: schp-atr:FOLDER, schp-lip:,"
        " schp-pascal:",
    )
    parser.add_argument("--batch-images", type=int, default=32, help="images that the model sees at once")
    parser.add_argument("--workers", type=int, default=4, help="threads that read images, of each process")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Write the maps. ValueError: an argument, an image or a parser cannot be used."""
    from tbps.data.label_sets import LABEL_SETS
    from tbps.data.parsing_cache import cache_folder, missing_maps
    from tbps.parsing.write_maps import images_to_parse, write_maps

    for name in ("batch_images", "workers"):
        if getattr(given, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(given, name)}, expected at least 1; give more")
    rank, world_size = _place("RANK", 0), _place("WORLD_SIZE", 1)
    images = images_to_parse(given.root, given.benchmark)
    parser = _open(given.parser, images)
    with _progress(shown=rank == 0) as progress:
        written = write_maps(
            given.root,
            given.benchmark,
            images,
            parser,
            batch_images=given.batch_images,
            workers=given.workers,
            share=(rank, world_size),
            progress=progress,
        )
    label_set = parser.manifest.label_set
    left = len(missing_maps(given.root, label_set, images))
    sys.stdout.write(
        f"{cache_folder(given.root, label_set)}: {written} maps of {LABEL_SETS[label_set].title} written"
        + (f" by process {rank} of {world_size}" if world_size > 1 else "")
        + (f", {left} are still to come from others" if left else f", all {len(images)} are there")
        + "\n"
    )


def _open(name: str, images: Sequence[str]) -> Parser:
    for prefix, label_set in _SCHP.items():
        if name.startswith(prefix):
            from tbps.parsing.schp import SchpMaps

            return SchpMaps(Path(name.removeprefix(prefix)), label_set, images)
    if name.startswith("schp"):
        raise ValueError(
            f"--parser {name} does not say of which label set SCHP's maps are, expected one of"
            f" {', '.join(f'{prefix}FOLDER' for prefix in _SCHP)}"
        )
    import torch

    from tbps.parsing.segmentation_model import SegmentationModel

    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", _place("LOCAL_RANK", 0) % torch.cuda.device_count())
    logger.info("%s labels pixels on %s", name, device)
    return SegmentationModel(name, device)


def _place(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise ValueError(f"the environment variable {name} is {text!r}, expected a number as torchrun sets it; unset it")
    return int(text or default)


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, and a line a minute in a file, of this process's share."""
    if not shown:
        yield lambda done, total: None
    elif not sys.stderr.isatty():
        yield _lines()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task("maps")
            yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines() -> Callable[[int, int], None]:
    said = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal said
        if done == total or time.monotonic() - said > LINE_S:
            said = time.monotonic()
            logger.info("%d of %d images parsed", done, total)

    return say
