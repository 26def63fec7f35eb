"""Look at every parsing map of a data set, for `tbps data doctor`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tbps.config.data import Benchmark, LabelSetName
from tbps.data.finding import Finding
from tbps.data.image_check import BATCH
from tbps.data.image_files import ImageFiles
from tbps.data.label_maps import PARSING
from tbps.data.label_sets import LABEL_SETS
from tbps.data.parsing_cache import MANIFEST, missing_maps, problem_of, read_manifest
from tbps.data.worker_pool import worker_pool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    root: Path
    files: ImageFiles
    label_set: LabelSetName
    paths: Sequence[str]


def manifest_findings(root: Path, needed: Collection[LabelSetName] = ()) -> Iterator[Finding]:
    """Folders of maps that do not say what their labels are, and label sets that are needed and not there.

    needed: the label sets that a training is to read; a fault of another set stops nobody, so it is not fatal.
    """
    for label_set in _folders(root, needed):
        fatal, place = label_set in needed, root / PARSING / label_set
        try:
            manifest = read_manifest(root, label_set)
        except ValueError as error:
            yield Finding(what="manifest of parsing maps that cannot be used", names=(str(error),), fatal=fatal)
            continue
        if manifest is None:
            what = f"folder of parsing maps without {MANIFEST}" if place.is_dir() else "folder of parsing maps missing"
            yield Finding(what=what, names=(f"{place} (tbps parse)",), fatal=fatal)


def map_findings(
    root: Path,
    benchmark: Benchmark,
    image_paths: Sequence[str],
    *,
    decode: bool,
    workers: int,
    needed: Collection[LabelSetName] = (),
) -> Iterator[Finding]:
    """Maps that the images lack, and, if they are decoded, those that training would refuse, of every label set there is.

    needed: as of `manifest_findings`.
    """
    files = ImageFiles(root, benchmark)
    for label_set in _folders(root):
        title, fatal = LABEL_SETS[label_set].title, label_set in needed
        missing = missing_maps(root, label_set, image_paths)
        yield Finding(what=f"images without a parsing map of {title}", names=tuple(missing), fatal=fatal)
        if not decode:
            continue
        there = sorted(set(image_paths) - set(missing))
        jobs = [
            _Job(root=root, files=files, label_set=label_set, paths=there[first : first + BATCH])
            for first in range(0, len(there), BATCH)
        ]
        with worker_pool(workers) if workers > 1 else ThreadPoolExecutor(1) as pool:
            names = tuple(name for found in pool.map(_look, jobs) for name in found)
        yield Finding(what=f"parsing maps of {title} that cannot be used", names=names, fatal=fatal)


def _look(job: _Job) -> list[str]:
    problems = {path: problem_of(job.root, job.files, job.label_set, path) for path in job.paths}
    return [f"{path} ({problem})" for path, problem in problems.items() if problem]


def _folders(root: Path, needed: Collection[LabelSetName] = ()) -> list[LabelSetName]:
    return [label_set for label_set in LABEL_SETS if label_set in needed or (root / PARSING / label_set).is_dir()]
