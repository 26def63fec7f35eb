"""Look at every image file of a data set: is it there, can it be read and decoded, which file is it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tbps.config.data import Benchmark
from tbps.data.image_files import ImageFiles, MissingImage
from tbps.data.images import decode as decode_image
from tbps.data.images import what_changes
from tbps.data.worker_pool import worker_pool

BATCH = 64
"""Images of one job."""
DISK_THREADS = 8
"""Opening files on a shared disk is waiting: several wait at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What one image turned out to be."""

    path: str
    """As annotated."""
    fault: Literal["", "missing", "unreadable", "undecodable"] = ""
    """"" = training will read it, as far as was looked."""
    reason: str = ""
    """The sentence of the fault."""
    file_key: tuple[int, int] | None = None
    """Equal for equal files on the disk; None = no file."""
    sha256: bytes = b""
    """Of its bytes, if it was decoded."""
    changes: tuple[str, ...] = ()
    """What decoding leaves out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    files: ImageFiles
    paths: Sequence[str]
    decode: bool


def look_at_images(
    root: Path, benchmark: Benchmark, paths: Sequence[str], *, decode: bool, workers: int
) -> Iterator[Looked]:
    """Look at the images `paths` of the data set at `root`, in order. `workers` processes decode."""
    files = ImageFiles(root, benchmark)
    jobs = [_Job(files=files, paths=paths[first : first + BATCH], decode=decode) for first in range(0, len(paths), BATCH)]
    if decode and workers < 2:
        for job in jobs:
            yield from _look(job)
        return
    with worker_pool(workers) if decode else ThreadPoolExecutor(DISK_THREADS) as pool:
        for looked in pool.map(_look, jobs):
            yield from looked


def _look(job: _Job) -> list[Looked]:
    return [_look_at(job.files, path, decode=job.decode) for path in job.paths]


def _look_at(files: ImageFiles, path: str, *, decode: bool) -> Looked:
    try:
        file_key = files.same_file_key(path)
        content = files.read(path) if decode else b""
    except MissingImage as error:
        return Looked(path=path, fault="missing", reason=str(error))
    except (ValueError, OSError) as error:
        return Looked(path=path, fault="unreadable", reason=str(error).removeprefix(f"image {path}: "))
    if not decode:
        return Looked(path=path, file_key=file_key)
    digest = hashlib.sha256(content).digest()
    try:
        decode_image(content, key=path)
    except ValueError as error:
        reason = str(error).removeprefix(f"pair {path}: ")
        return Looked(path=path, fault="undecodable", reason=reason, file_key=file_key, sha256=digest)
    return Looked(path=path, file_key=file_key, sha256=digest, changes=what_changes(content))
