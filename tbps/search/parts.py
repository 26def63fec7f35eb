"""Large files in small parts: a video's frames are made ready some at a time, and joined again when all are embedded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tbps.search.pictures import Pictures, is_video
from tbps.search.preparing import CHANGED, Look, Prepared, Task, VideoPart
from tbps.search.video import read_head


def parted(pictures: Pictures, block: Sequence[Task], look: Look, is_known: Callable[[bytes], bool]) -> Iterator[list[Task]]:
    """The tasks of a block in order, so many together as may be in memory; a video is cut.

    is_known: whether the features of a file of this sha256 are there, so that a video need not be decoded.
    """
    gathered: list[Task] = []
    for task in block:
        if is_video(task.found.path):
            if gathered:
                yield gathered
                gathered = []
            yield from ([part] for part in _parts(pictures, task, look, is_known))
        else:
            gathered.append(task)
            if len(gathered) == look.pictures_at_once:
                yield gathered
                gathered = []
    if gathered:
        yield gathered


def _parts(pictures: Pictures, task: Task, look: Look, is_known: Callable[[bytes], bool]) -> list[Task]:
    """A video's parts; the video with no moments where its content is known, or with a refusal."""
    found = task.found
    try:
        with pictures.open(found.path) as file:
            sha256 = hashlib.file_digest(file, "sha256").digest()
            size = file.tell()
            head = read_head(file)
    except ValueError as error:
        return [replace(task, refused=str(error))]
    if size != found.size:
        return [replace(task, refused=CHANGED)]
    moments = range(0 if is_known(sha256) else head.last_ms // look.every_ms + 1)
    begun_s = found.stamp // 10**9 if head.created_s is None else head.created_s
    firsts = range(0, len(moments), look.frames_at_once) or (0,)
    return [
        replace(task, part=VideoPart(sha256=sha256, begun_s=begun_s, moments=moments[first : first + look.frames_at_once]))
        for first in firsts
    ]


def joined(parts: Sequence[Prepared], *, wanted: str) -> Prepared:
    """What became of the whole file. wanted: whom a detector finds, in words, for a file where it finds nobody."""
    first = parts[0]
    views = tuple(view for part in parts for view in part.views)
    if first.skipped or first.known:
        return first
    frames, missing, empty = (
        sum(getattr(part, name) for part in parts) for name in ("num_frames", "num_missing", "num_empty")
    )
    notes = [part.note for part in parts if part.note]
    moments = f"{missing:,} of its {frames + missing:,} moments have no frame that can be read"
    if missing:
        notes.append(moments)
    if not frames:
        return replace(first, skipped=moments)
    if not views:
        what = f"any of its {frames:,} frames" if is_video(first.found.path) else "it"
        nobody = f"nobody is found in {what} ({wanted})" if empty else "its frames are too small"
        return replace(first, skipped=", ".join([nobody, *notes]))
    if empty:
        notes.append(f"nobody is found in {empty:,} of its {frames:,} frames")
    return replace(first, views=views, num_frames=frames, num_missing=missing, num_empty=empty, note=", ".join(notes))
