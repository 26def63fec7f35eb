"""Annotations of large data sets, read once and kept as columns: later starts, and other processes, map them into memory.

A cache holds one folder for each state of the annotation files (path, size, time of change), with `<split>.safetensors` for
each split. It is made by whichever process comes first; the others of the machine wait for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import uuid
from pathlib import Path
from typing import Any, cast

from tbps.config.data import Benchmark
from tbps.data.annotations import Annotations, Split, read_annotations
from tbps.data.column import map_columns, write_columns
from tbps.data.layouts import annotation_files
from tbps.data.remote import sha256_of
from tbps.data.turns import one_at_a_time

logger = logging.getLogger(__name__)

FORMAT_VERSION = 3
"""Another one where columns or the reading of rows change: older caches are then passed over."""
SMALL_BYTES = 4_000_000
"""Annotation files that are smaller together are read sooner than a cache is opened."""
_SPLITS = "splits.json"
_PATIENCE_S = 1800.0
"""Seconds that another process may take to read annotations: 20 times what 1.5 million captions take."""


def mapped_annotations(root: Path, benchmark: Benchmark, *, cache: Path) -> Annotations:
    """As `read_annotations`, from the folder `cache` where it holds the annotation files as they are now.

    What `read_annotations` warns of is said when the cache is made. ValueError: as `read_annotations`.
    """
    files = annotation_files(root, benchmark)
    if sum(file.stat().st_size for file in files) < SMALL_BYTES:
        return read_annotations(root, benchmark)
    folder = cache / _state(root, benchmark, files)
    if (splits := _map(folder)) is None:
        try:
            splits = _make(folder, root, benchmark)
        except OSError as error:
            logger.warning(
                "annotations cannot be kept in %s (%s): every process reads %s; see --data.cache", cache, error, root
            )
            return read_annotations(root, benchmark)
    return Annotations(benchmark=benchmark, root=root, splits=splits)


def _make(folder: Path, root: Path, benchmark: Benchmark) -> dict[str, Split]:
    """Read the annotations into `folder`, unless another process does it meanwhile. OSError: they cannot be kept."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    doing, lock_file = f"reads the annotations at {root}", folder.with_suffix(".lock")
    with one_at_a_time(lock_file, doing=doing, growing=folder / _SPLITS, patience_s=_PATIENCE_S):
        if (splits := _map(folder)) is None:
            logger.info("reading the annotations at %s, once: they are kept in %s", root, folder)
            _write(folder, read_annotations(root, benchmark))
            splits = _map(folder)
    assert splits is not None, "it was just written"
    return splits


def _state(root: Path, benchmark: Benchmark, files: list[Path]) -> str:
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([FORMAT_VERSION, benchmark, str(root.resolve()), stats]).encode()).hexdigest()[:16]


def _map(folder: Path) -> dict[str, Split] | None:
    """The splits in `folder`; None where it is not there or damaged."""
    try:
        digests = json.loads((folder / _SPLITS).read_text(encoding="utf-8"))
        return {name: _split(name, folder / f"{name}.safetensors", digest) for name, digest in digests.items()}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, AttributeError) as error:
        logger.warning("%s is damaged (%s): the annotations are read again", folder, error)
        return None


def _split(name: str, path: Path, digest: str) -> Split:
    if sha256_of(path) != digest:
        raise ValueError(f"{path.name} has changed")
    columns = cast(dict[str, Any], map_columns(path))
    return Split(name=name, **{"attribute_IA": None, **columns})


def _write(folder: Path, annotations: Annotations) -> None:
    """All of it, or nothing."""
    partial = folder.with_suffix(f".partial-{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        digests = {}
        for name, split in annotations.splits.items():
            columns = {field.name: getattr(split, field.name) for field in dataclasses.fields(split) if field.name != "name"}
            path = partial / f"{name}.safetensors"
            write_columns(path, {name: column for name, column in columns.items() if column is not None})
            digests[name] = sha256_of(path)
        (partial / _SPLITS).write_text(json.dumps(digests), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
