"""A segment: some rows of an index, appended once and never changed. Three files, none of which counts before the manifest
names it.

`segment-000001.features`    (R, E) float16, one row after the other, to be mapped into memory
`segment-000001.rows`        what is known of each picture, as safetensors
`segment-000001.thumbnails`  JPEG files, one after the other

Shapes: R rows of the segment, E features.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from tbps.runs.atomic_file import fsync_path, words_of

KINDS = ("features", "rows", "thumbnails")
_PREFIX = "segment-"
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the upright frame; right and bottom are the first pixels outside."""
_WHOLE = (-1, -1, -1, -1)
"""The box of a picture that is a whole frame, as a column holds it."""
ADVICE = "copy the index from a backup, or remove it and index again"
"""What to do about a damaged index."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is no picture that can be indexed. It is read again where its size or stamp changes."""

    path: bytes
    size: int
    stamp: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A picture, as a new row tells it."""

    path: bytes
    size: int
    stamp: int
    sha256: bytes
    size_px: tuple[int, int]
    """Width and height, upright."""
    taken_s: int
    thumbnail: tuple[int, int, int] | bytes
    """JPEG; or segment, first byte and number of bytes where it lies already."""
    note: str = ""
    box: Box | None = None
    """Of a person in a frame; None: the whole of it."""
    offset_ms: int | None = None
    """Of a video's frame: milliseconds from its beginning."""
    view: int = 0
    """Number of the row among those of its file, which stand one after the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What is known of the R pictures of a segment, and what it changes in earlier ones."""

    path_bytes: NDArray[np.uint8]
    """All paths, one after the other."""
    path_end_R: NDArray[np.int64]
    """(R,) where each path ends in `path_bytes`."""
    size_R: NDArray[np.int64]
    stamp_R: NDArray[np.int64]
    sha256_R32: NDArray[np.uint8]
    """(R, 32)."""
    size_px_R2: NDArray[np.int32]
    """(R, 2) width and height."""
    taken_s_R: NDArray[np.int64]
    thumbnail_R3: NDArray[np.int64]
    """(R, 3) segment, first byte and number of bytes."""
    box_R4: NDArray[np.int32]
    """(R, 4) left, top, right, bottom; all -1 of a whole frame."""
    offset_ms_R: NDArray[np.int64]
    """(R,) of a video's frame; -1 of other pictures."""
    view_R: NDArray[np.int32]
    """(R,) number among the rows of a file."""
    ended: NDArray[np.int64]
    """Rows, counted over the whole index, that this segment ends: replaced, or gone."""
    more: NDArray[np.uint8]
    """JSON: `skipped` files, `forgotten` paths of such, `notes` of rows."""

    def path(self, row: int) -> bytes:
        """Path of the segment's row."""
        start = int(self.path_end_R[row - 1]) if row else 0
        return self.path_bytes[start : int(self.path_end_R[row])].tobytes()

    def box(self, row: int) -> Box | None:
        """Of the person whom the segment's row shows in a frame; None: the row is the whole frame."""
        left, top, right, bottom = self.box_R4[row].tolist()
        return None if right < 0 else (left, top, right, bottom)

    def told(self) -> dict[str, Any]:
        """`more`, read."""
        told: dict[str, Any] = json.loads(self.more.tobytes())
        return told


@dataclass(kw_only=True, slots=True)
class Segment:
    """What is to be appended."""

    rows: list[Row] = field(default_factory=list)
    features: list[NDArray[np.float16]] = field(default_factory=list)
    """(E,) of each row."""
    ended: list[int] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    forgotten: list[bytes] = field(default_factory=list)
    """Paths of skipped files that are gone, or indexed now."""
    recorded: int = 0
    """Weight of the files that it tells of (`weight_of`)."""

    @property
    def empty(self) -> bool:
        """Whether it would change nothing."""
        return not (self.rows or self.ended or self.skipped or self.forgotten)


def file_of(folder: Path, number: int, kind: str) -> Path:
    """Where a file of the segment lies."""
    return folder / f"{_PREFIX}{number:06d}.{kind}"


def write_segment(folder: Path, number: int, segment: Segment) -> dict[str, dict[str, Any]]:
    """Write the three files and wait until they are on the disk; bytes and sha256 of each, by kind.

    OSError: no room; what was written of it is removed again. The same segment gives the same bytes.
    """
    thumbnails, columns = _columns(number, segment)
    contents = {
        "features": b"".join(feature.tobytes() for feature in segment.features),
        "rows": save({each.name: getattr(columns, each.name) for each in fields(Columns)}),
        "thumbnails": thumbnails,
    }
    try:
        for kind, content in contents.items():
            _write(file_of(folder, number, kind), content)
        fsync_path(folder)
    except OSError:
        for kind in KINDS:
            file_of(folder, number, kind).unlink(missing_ok=True)
        raise
    return {
        kind: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for kind, content in contents.items()
    }


def _write(path: Path, content: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, words_of(error), str(path)) from error


def _columns(number: int, segment: Segment) -> tuple[bytes, Columns]:
    """The thumbnails that lie in this segment, and its columns."""
    rows, thumbnails, places = segment.rows, bytearray(), []
    for row in rows:
        if isinstance(row.thumbnail, bytes):
            places.append((number, len(thumbnails), len(row.thumbnail)))
            thumbnails += row.thumbnail
        else:
            places.append(row.thumbnail)
    more = {
        "skipped": [[os.fsdecode(each.path), each.size, each.stamp, each.reason] for each in segment.skipped],
        "forgotten": [os.fsdecode(path) for path in segment.forgotten],
        "notes": {str(place): row.note for place, row in enumerate(rows) if row.note},
    }
    columns = Columns(
        path_bytes=_bytes(b"".join(row.path for row in rows)),
        path_end_R=np.cumsum([len(row.path) for row in rows], dtype=np.int64),
        size_R=_int64([row.size for row in rows]),
        stamp_R=_int64([row.stamp for row in rows]),
        sha256_R32=_bytes(b"".join(row.sha256 for row in rows)).reshape(-1, 32),
        size_px_R2=np.array([row.size_px for row in rows], dtype=np.int32).reshape(-1, 2),
        taken_s_R=_int64([row.taken_s for row in rows]),
        thumbnail_R3=_int64(places).reshape(-1, 3),
        box_R4=np.array([row.box or _WHOLE for row in rows], dtype=np.int32).reshape(-1, 4),
        offset_ms_R=_int64([-1 if row.offset_ms is None else row.offset_ms for row in rows]),
        view_R=np.array([row.view for row in rows], dtype=np.int32),
        ended=_int64(segment.ended),
        more=_bytes(json.dumps(more).encode()),
    )
    return bytes(thumbnails), columns


def read_columns(folder: Path, number: int) -> Columns:
    """The columns of a segment. ValueError: the file is damaged."""
    path = file_of(folder, number, "rows")
    try:
        columns = load_file(path)
        if "view_R" not in columns:  # of before there were boxes: each file is one picture
            num_rows = len(columns["path_end_R"])
            columns["box_R4"] = np.full((num_rows, 4), -1, np.int32)
            columns["offset_ms_R"] = np.full(num_rows, -1, np.int64)
            columns["view_R"] = np.zeros(num_rows, np.int32)
        return Columns(**columns)
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); copy the index from a backup, or remove it and index again"
        ) from error


def map_features(folder: Path, number: int, *, num_rows: int, width: int) -> NDArray[np.float16]:
    """(R, E) float16, mapped: nothing is read before it is used."""
    if not num_rows:
        return np.zeros((0, width), np.float16)
    return np.memmap(file_of(folder, number, "features"), dtype="<f2", mode="r", shape=(num_rows, width))


def skipped_of(told: dict[str, Any]) -> Sequence[Skipped]:
    """The skipped files that a segment tells of."""
    return [Skipped(os.fsencode(path), size, stamp, reason) for path, size, stamp, reason in told["skipped"]]


def _bytes(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, dtype=np.uint8)


def _int64(values: Sequence[Any]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
