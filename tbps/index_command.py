"""`tbps index`: every picture of a folder, of a list of files or of shards as a row that sentences are compared with.

Started by torchrun, processes share the pictures; the first one writes. `torchrun --nproc_per_node 4 -m -- tbps.command
index ...` is for four GPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbps.search.building import Outcome
    from tbps.search.index import Manifest
    from tbps.search.model import SearchModel
    from tbps.search.people import Detector
    from tbps.search.pictures import Pictures

logger = logging.getLogger(__name__)

DETECTOR = "fasterrcnn_resnet50_fpn_v2"
"""Torchvision's most accurate one of people by its own table (box mAP 46.7 on COCO)."""
SCORE = 0.7
"""Ours: below it, detectors trained on COCO begin to take poles and mannequins for people."""
HEIGHT_PX = 64
"""Ours: half the height of most pictures that these methods are trained on."""
LINE_S = 60.0
"""Seconds between two lines on progress, where it goes to a file."""
LEAST_S, MOST_S = 0.04, 3600.0
"""Between two frames of a video: one of 25 in a second, to one an hour."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tbps index`."""
    parser.add_argument(
        "pictures", type=Path, metavar="FOLDER", help="folder of pictures; or a text with a path on each line; or shards"
    )
    parser.add_argument(
        "index", type=Path, metavar="INDEX", help="folder of the index: a new one, or one to bring up to date"
    )
    parser.add_argument(
        "--run",
        "--weights",  # torchrun takes the first for an option of its own
        type=Path,
        metavar="MODEL",
        dest="weights",
        help="a run folder (runs/<recipe>/<name>), what tbps export wrote, or hf:NAMESPACE/NAME",
    )
    parser.add_argument("--root", type=Path, help="of a list: the folder that its paths are below (default: the list's)")
    parser.add_argument("--split", default="train", help="of shards: which split")
    parser.add_argument(
        "--camera",
        metavar="REGEX",
        help="what in a path names the camera: the first group of a regular expression (default: the picture's folder)",
    )
    parser.add_argument(
        "--faiss", action="store_true", help="also build faiss's codes, for 10^5 pictures and more; prints their recall"
    )
    parser.add_argument(
        "--detect",
        type=Path,
        metavar="WEIGHTS",
        help="cut people out of whole frames by a detector of torchvision: the file of its state dict",
    )
    parser.add_argument("--detector", metavar="NAME", help=f"which of torchvision's it is (default: {DETECTOR})")
    parser.add_argument("--detect-score", type=float, help=f"least score of a person, 0 to 1 (default: {SCORE})")
    parser.add_argument("--detect-height-px", type=int, help=f"least height of a person in pixels (default: {HEIGHT_PX})")
    parser.add_argument(
        "--video-every-s",
        type=float,
        metavar="SECONDS",
        help="also index a frame of each video so often, usually with --detect (default: videos are left out)",
    )
    parser.add_argument("--check", action="store_true", help="compare every file's content, not only its size and time")
    parser.add_argument("--workers", type=int, default=_cores(), help="processes that read and decode pictures")
    parser.add_argument("--thumbnail-px", type=int, default=256, help="longer side of the thumbnails of a new index")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> None:
    """Index. ValueError: an argument, the index or the pictures cannot be used."""
    for name, least in (("workers", 0), ("thumbnail_px", 16)):
        if getattr(given, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(given, name)}, expected at least {least}; give more")
    with _processes():
        _index(given)


def _index(given: argparse.Namespace) -> None:
    from tbps.convert.hub import lasting_name
    from tbps.evaluation.ranks import Ranks
    from tbps.finished import load_model
    from tbps.search.building import index_pictures
    from tbps.search.index import Manifest
    from tbps.search.pictures import open_pictures
    from tbps.search.together import share_of_first
    from tbps.search.writing import only_writer, open_or_begin

    there = _there(given.index)
    every_s = _every_s(given, there)
    pictures = open_pictures(given.pictures, index=given.index, root=given.root, split=given.split, videos=bool(every_s))
    ranks, started = Ranks.current(), time.monotonic()
    with contextlib.ExitStack() as stack:
        # Before the weights are read: who has to wait is told at once.
        share_of_first(lambda: stack.enter_context(only_writer(given.index)), ranks)
        model = load_model(_weights(given, there))
        detector = _detector(given, there, model)
        begun = Manifest(
            source=lasting_name(model.source),
            weights_sha256=model.weights_sha256,
            preprocessing=model.preprocessing(),
            pictures=str(given.pictures.absolute()),
            root=pictures.root,
            split=given.split,
            block=model.batch_images,
            thumbnail_px=given.thumbnail_px,
            detector={} if detector is None else detector.said(),
            detector_source="" if detector is None else detector.source,
            video_every_s=every_s,
        )
        share_of_first(lambda: open_or_begin(given.index, begun, model, camera=given.camera), ranks)
        with _progress(shown=ranks.rank == 0) as progress:
            outcome = index_pictures(
                pictures,
                given.index,
                model,
                detector=detector,
                workers=given.workers,
                check=given.check,
                progress=progress,
            )
        if ranks.rank == 0:
            _write_skipped(given.index, outcome)
            sys.stdout.write(_in_words(given, pictures, model, outcome, time.monotonic() - started))
            if given.faiss:
                from tbps.search.approximate import build
                from tbps.search.index import Index

                sys.stdout.write(build(Index.open(given.index)) + "\n")


def _there(index: Path) -> Manifest | None:
    """What an index says that is there already."""
    from tbps.search.index import MANIFEST, read_manifest

    return read_manifest(index) if (index / MANIFEST).is_file() else None


def _weights(given: argparse.Namespace, there: Manifest | None) -> Path:
    """The run that was named, or that the index names."""
    if given.weights is not None:
        return Path(given.weights)
    if there is None:
        raise ValueError(f"{given.index} is a new index, expected the run whose weights embed its pictures; add --run RUN")
    return Path(there.source)


def _every_s(given: argparse.Namespace, there: Manifest | None) -> float:
    """Seconds between a video's frames, as asked for or as the index has them; 0: without videos."""
    every_s = given.video_every_s
    if every_s is None:
        every_s = 0.0 if there is None else there.video_every_s
    if every_s and not LEAST_S <= every_s <= MOST_S:
        raise ValueError(f"--video-every-s is {every_s:g}, expected {LEAST_S} to {MOST_S:g} seconds, or 0 without videos")
    if every_s:
        from tbps.search.video import check_installed

        check_installed()
    return float(every_s)


def _detector(given: argparse.Namespace, there: Manifest | None, model: SearchModel) -> Detector | None:
    """The detector that was named, or that the index names, with the thresholds that were given or are the index's."""
    said = {} if there is None else there.detector
    path = given.detect or (Path(there.detector_source) if there is not None and there.detector else None)
    thresholds = {"name": given.detector, "score": given.detect_score, "height_px": given.detect_height_px}
    if path is None:
        if any(value is not None for value in thresholds.values()):
            raise ValueError("--detector and --detect-... say how people are found, and --detect is not given; add it")
        return None
    from tbps.search.people import load_detector

    defaults = {"name": DETECTOR, "score": SCORE, "height_px": HEIGHT_PX, **said}
    chosen = {name: defaults[name] if value is None else value for name, value in thresholds.items()}
    return load_detector(path, **chosen, device=model.device)


def _write_skipped(index: Path, outcome: Outcome) -> None:
    """All that is not indexed, or was changed for it, one file a line."""
    from tbps.runs.atomic_file import write_text
    from tbps.search.pictures import shown_path

    lines = [f"skipped\t{shown_path(each.path)}\t{each.reason}\n" for each in outcome.skipped]
    lines += [f"indexed\t{shown_path(each.path)}\t{each.reason}\n" for each in outcome.notes]
    write_text(index / "skipped.tsv", "".join(lines))


def _in_words(given: argparse.Namespace, pictures: Pictures, model: SearchModel, outcome: Outcome, seconds: float) -> str:
    counts = outcome.counts
    names = ("new", "changed", "moved", "touched", "deleted", "unchanged", "unseen")
    told = ", ".join(f"{counts[name]:,} {name}" for name in names if counts[name]) or "nothing there"
    of_files = f" in {outcome.num_files:,} files" if outcome.num_files != outcome.num_pictures else ""
    lines = [
        f"{given.index}: {outcome.num_pictures:,} pictures{of_files} of {pictures.root} ({told})",
        f"{counts['encoded']:,} encoded by {model.source} in {seconds:.1f} s",
    ]
    if counts["copies"]:
        lines.append(f"{counts['copies']:,} of the new ones are copies of others, and were not encoded again")
    if counts["unseen"]:
        lines.append(f"{counts['unseen']:,} lie in folders that could not be read, and stay as they were")
    if outcome.skipped or outcome.notes:
        said = f"{len(outcome.skipped):,} files skipped, {len(outcome.notes):,} indexed with a note"
        lines.append(f"{said}: {given.index / 'skipped.tsv'}")
    return "\n".join([*lines, f"digest {outcome.digest}"]) + "\n"


def _cores() -> int:
    return min(8, len(os.sched_getaffinity(0)))


@contextlib.contextmanager
def _processes() -> Iterator[None]:
    """The process group, where torchrun has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(hours=1))
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar with speed and time left on a terminal, a line a minute in a file."""
    if not shown:
        yield lambda done, total: None
    elif not sys.stderr.isatty():
        yield _lines()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        speed = TextColumn("{task.fields[speed]:.0f} pictures/s")
        with Progress(BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task, started = bar.add_task("pictures", speed=0.0), time.monotonic()
            yield lambda done, total: bar.update(
                task, completed=done, total=total, speed=done / max(time.monotonic() - started, 1e-9)
            )


def _lines() -> Callable[[int, int], None]:
    started = said = time.monotonic()

    def say(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if done == total or now - said > LINE_S:
            said = now
            per_s = done / max(now - started, 1e-9)
            left = timedelta(seconds=round((total - done) / max(per_s, 1e-9)))
            logger.info("%d of %d pictures, %.0f pictures/s, %s left", done, total, per_s, left)

    return say
