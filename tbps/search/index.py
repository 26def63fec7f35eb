"""An index of pictures: a folder with a manifest and segments. What is committed is whole, and is only ever added to.

`manifest.json`  which weights and preprocessing, which pictures, which segments with their sizes and digests
`segment-*`      see `segment.py`
`skipped.tsv`    what is not indexed and why, for people; written at the end of each `tbps index`
`lock`           held by the process that writes
`faiss.*`        an approximate index of the same features, where it was asked for

A picture is a row; rows keep their numbers for ever. Where a picture is changed or gone its row ends, and is found no more.
Shapes: N rows, E features.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps.runs.atomic_file import read_json, write_json
from tbps.search.model import SearchModel
from tbps.search.pictures import Pictures, open_pictures, shown_path
from tbps.search.segment import ADVICE, KINDS, Box, Columns, Skipped, file_of, map_features, read_columns, skipped_of

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What an index says of itself."""

    source: str
    """The run, or other weights, as an absolute path where it is one."""
    weights_sha256: str
    preprocessing: dict[str, Any]
    """Image size, mean, deviation, interpolation and precision: with the weights, all that features depend on."""
    pictures: str
    """What was indexed: a folder, a list of files or shards."""
    root: str
    """The folder that paths are below."""
    split: str = "train"
    """Of shards."""
    camera: str = ""
    """Regular expression whose first group is found in a path; empty: the camera is the path's folder."""
    block: int
    """Pictures of one forward pass."""
    thumbnail_px: int
    """Longer side of thumbnails."""
    detector: dict[str, Any] = field(default_factory=dict)
    """By whom people were found in frames: name, sha256, thresholds; empty: a picture is one person."""
    detector_source: str = ""
    """The detector's file."""
    video_every_s: float = 0.0
    """Seconds between the frames of a video that are looked at; 0: videos are left out."""
    width: int = 0
    """E; 0 before the first picture."""
    segments: tuple[dict[str, Any], ...] = ()
    """Of each: `rows`, weight of the `recorded` files (skipped ones too), and bytes and sha256 of its `files`."""

    @property
    def recorded(self) -> int:
        """Weight of the files that all segments tell of (`changes.weight_of`)."""
        return sum(int(segment["recorded"]) for segment in self.segments)

    def digest(self) -> str:
        """Of all that is found by searching: equal for equal indices wherever they and their pictures lie."""
        places = ("source", "pictures", "root", "detector_source")
        said = {name: value for name, value in asdict(self).items() if name not in places}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """What the index knows of a picture."""

    row: int
    """Its number, for as long as the index lives."""
    path: bytes
    """Below the root."""
    name: str
    """The path for people, with time and box behind it: `a.mp4#t=12.000&xywh=40,10,64,128`."""
    size: int
    """Bytes of its file."""
    stamp: int
    """Of its file, as `pictures.Found` has it."""
    width_px: int
    """Of the person's box, or of the whole."""
    height_px: int
    box: Box | None
    """Where the person stands in the upright frame; None: the picture is the whole frame."""
    offset_ms: int | None
    """Of a video's frame, from its beginning."""
    taken_s: int
    """When it was taken, by EXIF, or its file was changed: seconds since 1970."""
    camera: str
    sha256: str
    """Of the file."""


class Index:
    """An index that is open for reading. What is committed later is not seen: open it again."""

    def __init__(self, folder: Path, manifest: Manifest, *, columns: Sequence[Columns] = ()) -> None:
        """As `open` does, of a manifest that was read. columns: of the first segments, where they are known."""
        self.folder = folder
        self.manifest = manifest
        self._columns = list(columns)
        self._first_rows = [0]
        self._maps: dict[int, NDArray[np.float16]] = {}
        for number, segment in enumerate(manifest.segments, start=1):
            self._first_rows.append(self._first_rows[-1] + int(segment["rows"]))
            if number > len(columns):
                _check_files(folder, number, segment)
                self._columns.append(read_columns(folder, number))
        self.live_N = np.ones(self.num_rows, dtype=bool)
        """(N,) which rows stand for a picture that is still there."""
        for each in self._columns:
            self.live_N[each.ended] = False

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Milliseconds for 10^5 pictures; features are not read. ValueError: it is no index, or damaged."""
        return cls(folder, read_manifest(folder))

    def grown(self, manifest: Manifest) -> Index:
        """The index with the segments that `manifest` has more than this one."""
        return Index(self.folder, manifest, columns=self._columns)

    @property
    def num_rows(self) -> int:
        """N: rows, ended ones too."""
        return self._first_rows[-1]

    @property
    def num_pictures(self) -> int:
        """Rows that stand for a picture."""
        return int(self.live_N.sum())

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float16]]]:
        """First row and (R, E) features of each segment, mapped."""
        for number, first in enumerate(self._first_rows[:-1], start=1):
            if self._first_rows[number] > first:
                yield first, self._features(number)

    def _features(self, number: int) -> NDArray[np.float16]:
        if number not in self._maps:
            num_rows = self._first_rows[number] - self._first_rows[number - 1]
            self._maps[number] = map_features(self.folder, number, num_rows=num_rows, width=self.manifest.width)
        return self._maps[number]

    def feature(self, row: int) -> NDArray[np.float16]:
        """(E,) of a row."""
        number, inside = self._place(row)
        return np.array(self._features(number)[inside])

    def path(self, row: int) -> bytes:
        """Path of a row, below the root."""
        number, inside = self._place(row)
        return self._columns[number - 1].path(inside)

    def picture(self, row: int) -> Picture:
        """All about a row. IndexError: there is no such row."""
        number, inside = self._place(row)
        columns = self._columns[number - 1]
        path = columns.path(inside)
        width_px, height_px = columns.size_px_R2[inside].tolist()
        box, offset_ms = columns.box(inside), int(columns.offset_ms_R[inside])
        return Picture(
            row=row,
            path=path,
            name=shown_path(path) + _fragment(box, None if offset_ms < 0 else offset_ms),
            size=int(columns.size_R[inside]),
            stamp=int(columns.stamp_R[inside]),
            box=box,
            offset_ms=None if offset_ms < 0 else offset_ms,
            width_px=width_px,
            height_px=height_px,
            taken_s=int(columns.taken_s_R[inside]),
            camera=self.camera(path),
            sha256=columns.sha256_R32[inside].tobytes().hex(),
        )

    def views(self, row: int) -> range:
        """All rows of the file whose first row this is."""
        number, inside = self._place(row)
        view_R = self._columns[number - 1].view_R
        stop = inside + 1
        while stop < len(view_R) and view_R[stop]:
            stop += 1
        return range(row, row + stop - inside)

    @property
    def num_files(self) -> int:
        """Files that have a live row."""
        return int((self.live_N & (self.column("view_R") == 0)).sum())

    def camera(self, path: bytes) -> str:
        """What a path says of its camera: the first group of the index's pattern, else its folder; may be empty."""
        text = shown_path(path)
        if self._pattern is None:
            return text.rpartition("/")[0]
        found = self._pattern.search(text)
        return "" if found is None else (found[1] if found.re.groups else found[0]) or ""

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return re.compile(self.manifest.camera) if self.manifest.camera else None

    @cached_property
    def taken_s_N(self) -> NDArray[np.int64]:
        """(N,) time of each row."""
        return self.column("taken_s_R")

    def column(self, name: str) -> NDArray[Any]:
        """A column of all rows, by its name in `Columns`."""
        parts = [getattr(columns, name) for columns in self._columns]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def paths(self) -> Iterator[bytes]:
        """Of all rows, in order."""
        for columns in self._columns:
            blob, start = columns.path_bytes.tobytes(), 0
            for end in columns.path_end_R.tolist():
                yield blob[start:end]
                start = end

    def thumbnail(self, row: int) -> bytes:
        """JPEG of a row. Safe to call from several threads."""
        number, inside = self._place(row)
        segment, start, size = self._columns[number - 1].thumbnail_R3[inside].tolist()
        descriptor = os.open(file_of(self.folder, segment, "thumbnails"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, size, start)
        finally:
            os.close(descriptor)

    def thumbnail_place(self, row: int) -> tuple[int, int, int]:
        """Segment, first byte and number of bytes of a row's thumbnail."""
        number, inside = self._place(row)
        segment, start, size = self._columns[number - 1].thumbnail_R3[inside].tolist()
        return segment, start, size

    def skipped(self) -> dict[bytes, Skipped]:
        """Files that could not be indexed, by path."""
        skipped: dict[bytes, Skipped] = {}
        for columns in self._columns:
            told = columns.told()
            for path in told["forgotten"]:
                skipped.pop(os.fsencode(path), None)
            skipped |= {each.path: each for each in skipped_of(told)}
        return skipped

    def notes(self) -> dict[int, str]:
        """What was changed in pictures to read them, by row."""
        return {row: note for number in range(1, len(self._columns) + 1) for row, note in self._notes_of(number).items()}

    def last_notes(self) -> dict[int, str]:
        """Those of the last segment."""
        return self._notes_of(len(self._columns))

    def _notes_of(self, number: int) -> dict[int, str]:
        told = self._columns[number - 1].told()["notes"]
        return {self._first_rows[number - 1] + int(row): note for row, note in told.items()}

    def last_digests(self) -> list[bytes]:
        """sha256 of the last segment's pictures."""
        return [digest.tobytes() for digest in self._columns[-1].sha256_R32]

    def open_pictures(self) -> Pictures:
        """Where the pictures lie. ValueError: they are not there any more."""
        said = self.manifest
        videos = bool(said.video_every_s)
        return open_pictures(Path(said.pictures), index=self.folder, root=Path(said.root), split=said.split, videos=videos)

    def check_model(self, model: SearchModel) -> None:
        """ValueError: the features are those of other weights, or of other preprocessing."""
        if model.weights_sha256 != self.manifest.weights_sha256:
            raise ValueError(
                f"{self.folder} holds features of weights with sha256 {self.manifest.weights_sha256[:12]}"
                f" ({self.manifest.source}), and {model.source} has {model.weights_sha256[:12]}, expected the same; name the"
                " run that the index was made with, or make another index"
            )
        if (found := model.preprocessing()) != self.manifest.preprocessing:
            differing = [name for name in found if found[name] != self.manifest.preprocessing.get(name)]
            raise ValueError(
                f"{self.folder} was made with other preprocessing than {model.source} has: {', '.join(differing)} differ;"
                " name the run that the index was made with, or make another index"
            )

    def _place(self, row: int) -> tuple[int, int]:
        """Number of the segment that holds a row, and the row in it."""
        if not 0 <= row < self.num_rows:
            raise IndexError(f"row {row} of {self.num_rows}")
        number = int(np.searchsorted(self._first_rows, row, side="right"))
        return number, row - self._first_rows[number - 1]


def _fragment(box: Box | None, offset_ms: int | None) -> str:
    """Time and box as the W3C's media fragments write them."""
    parts = [] if offset_ms is None else [f"t={offset_ms // 1000}.{offset_ms % 1000:03d}"]
    if box is not None:
        left, top, right, bottom = box
        parts.append(f"xywh={left},{top},{right - left},{bottom - top}")
    return f"#{'&'.join(parts)}" if parts else ""


def read_manifest(folder: Path) -> Manifest:
    """ValueError: there is none, or it is of another kind."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} is no index (it has no {MANIFEST}); tbps index FOLDER {folder} --run RUN makes one")
    content = read_json(path, advice=ADVICE)
    version = content.pop("format_version", None) if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} is of format version {version}, expected {FORMAT_VERSION}; index again into a new folder with this"
            " version of tbps"
        )
    try:
        return replace(Manifest(**content), segments=tuple(content["segments"]))
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {ADVICE}") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Commit: the segments that it names count from now on."""
    write_json(folder / MANIFEST, {"format_version": FORMAT_VERSION, **asdict(manifest)})


def _check_files(folder: Path, number: int, segment: dict[str, Any]) -> None:
    for kind in KINDS:
        path, expected = file_of(folder, number, kind), int(segment["files"][kind]["bytes"])
        try:
            found = path.stat().st_size
        except OSError:
            raise ValueError(f"{path} is missing; {ADVICE}") from None
        if found != expected:
            raise ValueError(f"{path} has {found} bytes, expected {expected}; {ADVICE}")
