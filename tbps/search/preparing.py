"""From a file to what the index keeps of it: digest, resized pixels, size, time, thumbnail. What worker processes do."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tbps.config.data import Interpolation
from tbps.data.images import decode, resize_exactly, what_changes
from tbps.search.pictures import Found, Pictures
from tbps.search.segment import Box
from tbps.search.video import Frame, read_frames

MIN_SIDE_PX = 8
"""A narrower or lower picture shows nobody."""
CHANGED = "it was changed while it was indexed; the next tbps index reads it again"
_ORIENTATION, _EXIF, _TAKEN, _ZONE = 0x0112, 0x8769, 0x9003, 0x9011
_QUALITY = 85


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How pictures are made ready."""

    image_px: tuple[int, int]
    """Height and width that the method reads."""
    interpolation: Interpolation
    thumbnail_px: int
    """Longer side of a thumbnail; a smaller picture keeps its size."""
    detects: bool = False
    """Whether people are to be found in the frames, which then stay whole."""
    every_ms: int = 0
    """Milliseconds between a video's frames that are looked at."""

    @property
    def frames_at_once(self) -> int:
        """Frames of a video that come together: a whole one takes 6 MB (1920 x 1080), or 25 (3840 x 2160)."""
        return 8 if self.detects else 64

    @property
    def pictures_at_once(self) -> int:
        """Pictures that come together, at most: a whole one of a telephone takes 36 MB (12 megapixels)."""
        return 2 if self.detects else sys.maxsize


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoPart:
    """Which frames of a video are to be made ready; none where its features are there."""

    sha256: bytes
    """Of the video."""
    begun_s: int
    """When it begins: seconds since 1970."""
    moments: range
    """Numbers of the moments; see `video.py`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A file to be made ready, or a part of a video."""

    found: Found
    known: tuple[bytes, ...] = ()
    """Digests of pictures of this size whose features are there: one of them is not decoded again."""
    content: bytes | None = None
    """Its bytes, where they were read already."""
    part: VideoPart | None = None
    """Of a video."""
    refused: str = ""
    """Why it is not read at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A picture of a person: a file, a video's frame, or a person's box in one of them."""

    pixels_CHW: NDArray[np.uint8] | None
    """(3, height, width) as the method reads it; None once it is embedded."""
    feature_E: NDArray[np.float16] | None = None
    """(E,) once it is embedded."""
    size_px: tuple[int, int]
    """Width and height, upright."""
    thumbnail: bytes
    """JPEG."""
    box: Box | None = None
    """In the frame; None: the whole of it."""
    offset_ms: int | None = None
    """Of a video's frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What became of a file, or of a part of a video."""

    found: Found
    sha256: bytes = b""
    """Of the file's bytes: 32 bytes; empty where it could not be read."""
    skipped: str = ""
    """Why it is not indexed; empty where it is."""
    known: bool = False
    """Whether the digest is one of the task's, so that nothing was decoded."""
    views: tuple[View, ...] = ()
    frames: tuple[Frame, ...] = ()
    """What people are still to be found in."""
    num_frames: int = 0
    """Frames that could be read."""
    num_missing: int = 0
    """Moments of a video without a frame that can be read."""
    num_empty: int = 0
    """Frames in which nobody was found."""
    taken_s: int = 0
    """When it was taken, else when the file was changed: seconds since 1970. Of a video: its beginning."""
    note: str = ""
    """What was changed to make it readable; usually nothing."""


def prepare(pictures: Pictures | None, tasks: Sequence[Task], look: Look) -> list[Prepared]:
    """Make files ready, in order. pictures: None where all tasks bring their bytes. OSError: the disk failed."""
    return [_prepare(pictures, task, look) for task in tasks]


def _prepare(pictures: Pictures | None, task: Task, look: Look) -> Prepared:
    found = task.found
    if task.refused:
        return Prepared(found=found, skipped=task.refused)
    if task.part is not None:
        assert pictures is not None, "videos lie in folders"
        if not task.part.moments:
            return Prepared(found=found, sha256=task.part.sha256, known=True, taken_s=task.part.begun_s)
        return _prepare_part(pictures, found, task.part, look)
    try:
        content = task.content
        if content is None:
            assert pictures is not None, "whoever brings no bytes says where they are"
            content = pictures.read(found.path)
    except ValueError as error:
        return Prepared(found=found, skipped=str(error))
    if len(content) != found.size:
        return Prepared(found=found, skipped=CHANGED)
    digest = hashlib.sha256(content).digest()
    if digest in task.known:
        return Prepared(found=found, sha256=digest, known=True, taken_s=_taken_s(content, found))
    try:
        pixels_HWC, note = upright_pixels(content)
    except ValueError as error:
        return Prepared(found=found, sha256=digest, skipped=str(error))
    height, width = pixels_HWC.shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        small = f"{width} x {height} pixels, expected at least {MIN_SIDE_PX} x {MIN_SIDE_PX}"
        return Prepared(found=found, sha256=digest, skipped=small)
    frame = Frame(pixels_HWC=pixels_HWC)
    return Prepared(
        found=found,
        sha256=digest,
        views=() if look.detects else (view_of(frame, look),),
        frames=(frame,) if look.detects else (),
        num_frames=1,
        taken_s=_taken_s(content, found),
        note=note,
    )


def _prepare_part(pictures: Pictures, found: Found, part: VideoPart, look: Look) -> Prepared:
    """The frames of some moments; none where the file cannot be read any more."""
    frames: list[Frame] = []
    views: list[View] = []
    num_frames = 0
    try:
        with pictures.open(found.path) as file:
            for frame in read_frames(file, part.moments, every_ms=look.every_ms):
                num_frames += 1
                if look.detects:
                    frames.append(frame)
                elif min(frame.pixels_HWC.shape[:2]) >= MIN_SIDE_PX:
                    views.append(view_of(frame, look))
    except ValueError:
        pass  # changed since its head was read: its moments are missing
    return Prepared(
        found=found,
        sha256=part.sha256,
        views=tuple(views),
        frames=tuple(frames),
        num_frames=num_frames,
        num_missing=len(part.moments) - num_frames,
        taken_s=part.begun_s,
    )


def view_of(frame: Frame, look: Look, *, box: Box | None = None) -> View:
    """What the index keeps of a frame, or of a box in it."""
    pixels_HWC = cut_out(frame.pixels_HWC, box)
    height, width = pixels_HWC.shape[:2]
    return View(
        pixels_CHW=resize_exactly(pixels_HWC, image_px=look.image_px, interpolation=look.interpolation).numpy(),
        size_px=(width, height),
        thumbnail=_thumbnail(pixels_HWC, look.thumbnail_px),
        box=box,
        offset_ms=frame.offset_ms,
    )


def cut_out(pixels_HWC: NDArray[np.uint8], box: Box | None) -> NDArray[np.uint8]:
    """The pixels of a box; None: all."""
    if box is None:
        return pixels_HWC
    left, top, right, bottom = box
    return np.ascontiguousarray(pixels_HWC[top:bottom, left:right])


def upright_pixels(content: bytes) -> tuple[NDArray[np.uint8], str]:
    """(height, width, 3) RGB of a picture as a viewer shows it, and what was changed for that, in words.

    As evaluation decodes it, but for a rotation written in EXIF, which is applied: people stand on their feet. ValueError:
    it is damaged, too large or no picture.
    """
    try:
        pixels_HWC = decode(content, key="")
    except ValueError as error:
        raise ValueError(str(error).removeprefix("pair : ")) from error
    changes = [_indexed(change) for change in what_changes(content)]
    turn = _orientation(content)
    if turn not in (0, 1):
        turned = Image.fromarray(pixels_HWC)
        turned.getexif()[_ORIENTATION] = turn
        pixels_HWC = np.asarray(ImageOps.exif_transpose(turned))
    return pixels_HWC, ", ".join(changes)


def _indexed(change: str) -> str:
    """What the doctor says of an image, as it is true of an indexed one."""
    return "turned as its EXIF says" if change.startswith("with a rotation") else change


def _exif(content: bytes) -> Image.Exif | None:
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            return None if image.format == "TIFF" else image.getexif()
    except Exception:  # decoders raise whatever a damaged head leads them to
        return None


def _orientation(content: bytes) -> int:
    exif = _exif(content)
    try:
        return 1 if exif is None else int(exif.get(_ORIENTATION, 1))
    except (TypeError, ValueError):
        return 1


def _taken_s(content: bytes, found: Found) -> int:
    """By EXIF's DateTimeOriginal, in its zone or else this machine's; else the file's time of change."""
    exif = _exif(content)
    try:
        tags = {} if exif is None else exif.get_ifd(_EXIF)
        when = datetime.strptime(str(tags[_TAKEN]).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        zone = re.fullmatch(r"([+-])(\d\d):(\d\d)", str(tags.get(_ZONE, "")).strip("\0 "))
        if zone:
            offset = timedelta(hours=int(zone[2]), minutes=int(zone[3])) * (-1 if zone[1] == "-" else 1)
            when = when.replace(tzinfo=timezone(offset))
        return int(when.timestamp())
    except Exception:  # a damaged EXIF block raises anything, and dates may be of no calendar
        return found.stamp // 10**9


def _thumbnail(pixels_HWC: NDArray[np.uint8], longer_px: int) -> bytes:
    image = Image.fromarray(pixels_HWC)
    image.thumbnail((longer_px, longer_px), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def in_words(taken_s: int) -> str:
    """A time as people of this machine's zone write it: 2026-11-26 12:00."""
    return datetime.fromtimestamp(taken_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
