"""Frames of video files, read by PyAV.

A video has moments: 0, s, 2 s, ... seconds from its beginning. A moment's frame is the first one from then on, before the
next moment. Milliseconds are counted from the stream's first time stamp, so that a frame has the same number whether it was
decoded from the beginning or sought.

Files that are lists of other files (playlists, concatenations) are refused whatever their name: they would be read from
anywhere.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,mjpeg,h264,hevc,m4v"
"""FFmpeg's names of the containers that hold frames themselves."""
_GUESSED = "mpeg"
"""MPEG program streams: their duration is guessed, and after a seek frames have other times. All is read instead."""
_BEFORE_MS = (0, 10_000)
"""How far before a moment a key frame is sought. Some containers find one behind it; then all is read from the beginning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """What a video says of itself."""

    last_ms: int
    """When its last frame begins, by its duration and frame rate."""
    created_s: int | None
    """When it was begun, seconds since 1970, where it says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """A frame of a video, or a picture."""

    pixels_HWC: NDArray[np.uint8]
    """(height, width, 3) RGB, upright."""
    offset_ms: int | None = None
    """From the video's beginning; None of a picture."""


def check_installed() -> None:
    """ValueError: PyAV is not there."""
    if importlib.util.find_spec("av") is None:
        raise ValueError("av is not installed, expected it to read videos; install it: pip install 'tbps[search]'")


def read_head(file: io.BufferedIOBase) -> Head:
    """ValueError says why it is no video that can be read."""
    with _opened(file) as (container, stream):
        if container.format.name == _GUESSED:
            duration_ms = _duration_by_packets(container, stream)
        elif stream.duration is not None and stream.time_base is not None:
            duration_ms = round(1000 * stream.duration * stream.time_base)
        elif container.duration is not None:
            duration_ms = container.duration // 1000
        else:
            duration_ms = _duration_by_packets(container, stream)
        between_ms = round(1000 / stream.average_rate) if stream.average_rate else 0
        return Head(last_ms=max(0, duration_ms - between_ms), created_s=_created_s(container))


def read_frames(file: io.BufferedIOBase, moments: range, *, every_ms: int) -> Iterator[Frame]:
    """The frame of each moment, of those numbered so, that can be decoded. Damaged ones are left out: count what comes."""
    import av

    start_ms, stop_ms = moments.start * every_ms, moments.stop * every_ms
    with _opened(file) as (container, stream):
        last = moments.start - 1
        try:
            for at_ms, frame in _from(container, stream, start_ms):
                if at_ms >= stop_ms:
                    return
                if start_ms <= at_ms and at_ms // every_ms > last:
                    last = at_ms // every_ms
                    yield Frame(pixels_HWC=_upright(frame), offset_ms=at_ms)
        except av.error.FFmpegError:
            return  # what comes behind cannot be reached


def read_frame(file: io.BufferedIOBase, offset_ms: int) -> NDArray[np.uint8]:
    """(height, width, 3) of the frame that `read_frames` gave this offset. ValueError: it is not there any more."""
    for frame in read_frames(file, range(offset_ms, offset_ms + 1), every_ms=1):
        return frame.pixels_HWC
    raise ValueError(f"its frame at {offset_ms / 1000:.3f} s cannot be read")


@contextmanager
def _opened(file: io.BufferedIOBase) -> Iterator[tuple[InputContainer, VideoStream]]:
    """ValueError: it is no video, or one of lists of other files."""
    import av

    file.seek(0)
    try:
        container = av.open(file, mode="r", options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"})
    except (av.error.FFmpegError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"it cannot be read as a video ({why})") from error
    with container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        yield container, container.streams.video[0]


def _from(container: InputContainer, stream: VideoStream, start_ms: int) -> Iterator[tuple[int, VideoFrame]]:
    """Frames with their milliseconds, all from `start_ms` on and usually some before."""
    import av

    if start_ms and container.format.name != _GUESSED:
        for before_ms in _BEFORE_MS:
            at_s = max(0, start_ms - before_ms) / 1000
            try:
                container.seek(_begin(stream) + int(at_s / stream.time_base), stream=stream)  # type: ignore[operator]
            except av.error.FFmpegError:
                continue
            frames = _decoded(container, stream)
            first = next(frames, None)
            if first is not None and first[0] <= start_ms and first[1].key_frame:
                yield first
                yield from frames
                return
        container.seek(0)  # no key frame was found before it
    yield from _decoded(container, stream)


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[tuple[int, VideoFrame]]:
    """All frames from here on that are whole; what cannot be decoded is passed over."""
    import av

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        for frame in frames:
            if frame.pts is not None and frame.time_base is not None and not frame.is_corrupt:
                yield round(1000 * (frame.pts - _begin(stream)) * frame.time_base), frame


def _begin(stream: VideoStream) -> int:
    return stream.start_time or 0


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """(height, width, 3), turned as the video says it was held."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4))


def _duration_by_packets(container: InputContainer, stream: VideoStream) -> int:
    """Milliseconds, of a video that does not say how long it is: a browser's recording, for one."""
    import av

    ends = [0]
    try:
        for packet in container.demux(stream):
            if packet.pts is not None and packet.time_base is not None:
                ends.append(round(1000 * (packet.pts + (packet.duration or 0) - _begin(stream)) * packet.time_base))
    except av.error.FFmpegError:
        pass  # as far as it goes
    return max(ends)


def _created_s(container: InputContainer) -> int | None:
    text = container.metadata.get("creation_time", "")
    try:
        created_s = int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError):
        return None
    return created_s if created_s > 0 else None  # 1904 is what cameras without a clock write
