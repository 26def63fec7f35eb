"""Calls of the indexing that the tests share: in this process, and in others that may be killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tbps.search.building import Outcome, Progress, index_pictures
from tbps.search.index import Manifest
from tbps.search.model import SearchModel
from tbps.search.people import Detector
from tbps.search.pictures import open_pictures
from tbps.search.writing import only_writer, open_or_begin


def bring_up_to_date(
    source: Path,
    index: Path,
    model: SearchModel,
    *,
    workers: int = 0,
    check: bool = False,
    camera: str | None = None,
    split: str = "train",
    detector: Detector | None = None,
    every_s: float = 0.0,
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """As `tbps index` does."""
    pictures = open_pictures(source, index=index, split=split, videos=bool(every_s))
    begun = Manifest(
        source=model.source,
        weights_sha256=model.weights_sha256,
        preprocessing=model.preprocessing(),
        pictures=str(source),
        root=pictures.root,
        split=split,
        block=model.batch_images,
        thumbnail_px=64,
        detector={} if detector is None else detector.said(),
        detector_source="" if detector is None else detector.source,
        video_every_s=every_s,
    )
    with only_writer(index):
        open_or_begin(index, begun, model, camera=camera)
        return index_pictures(pictures, index, model, detector=detector, workers=workers, check=check, progress=progress)


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """A process that calls it, started: forked, so that nothing is imported or loaded again."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def copy_pictures(source: Path, target: Path, *, number: int) -> list[Path]:
    """The first pictures of a folder, flat, with the times that they have there."""
    target.mkdir(parents=True)
    files = sorted(path for path in source.rglob("*") if path.suffix in (".jpg", ".png") and "parsing" not in path.parts)
    copies = [target / f"{place:03d}.jpg" for place, path in enumerate(files[:number])]
    for path, copy in zip(files, copies, strict=False):
        shutil.copy2(path, copy)
    return copies


def content(index: Path) -> dict[str, bytes]:
    """Every file of an index but its lock."""
    return {name: (index / name).read_bytes() for name in sorted(os.listdir(index)) if name != "lock"}
