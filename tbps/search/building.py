"""Fill an index: look what has changed, make pictures ready in worker processes, embed them, append segment by segment.

What is computed together depends on the list of files alone: segments and blocks are cut from what the index has recorded,
never from when a process was stopped or how many there are. So an index that was killed at any moment and gone on with is
equal to an undisturbed one, byte by byte. What is in an earlier segment is never embedded again: its row is copied.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tbps.data.worker_pool import worker_pool
from tbps.evaluation.ranks import Ranks
from tbps.runs.atomic_file import words_of
from tbps.search.changes import Changes, find_changes, weight_of
from tbps.search.index import Index, Manifest, write_manifest
from tbps.search.model import SearchModel
from tbps.search.parts import joined, parted
from tbps.search.people import Detector, with_people
from tbps.search.pictures import Listing, Pictures, Problem
from tbps.search.preparing import Look, Prepared, Task, View, prepare
from tbps.search.segment import Row, Segment, Skipped, write_segment
from tbps.search.together import gather_to_first, share_of_first

_LEAST_BLOCKS, _MOST_BLOCKS = 4, 256
_SHARE = 8
"""A segment is this part of what is there before it, between so many blocks."""
_AHEAD = 2
"""Blocks for each worker that are made ready ahead."""

Progress = Callable[[int, int], None]
"""Called with how many files are done, of how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one call of `index_pictures` has done."""

    counts: Counter[str]
    """Files that are `new`, `changed`, `moved`, `deleted`, `unchanged`, `touched` (other time, same content), `unseen`;
    `copies` among the new ones; how many pictures were `encoded`, of which a file may have several."""
    num_pictures: int
    """In the index now: files, or people and frames in them."""
    num_files: int
    """That they are of."""
    skipped: tuple[Problem, ...]
    """Everything that is not indexed, and why, by path."""
    notes: tuple[Problem, ...]
    """Pictures that were changed to be read, and how."""
    digest: str
    """Of the index."""


def index_pictures(
    pictures: Pictures,
    folder: Path,
    model: SearchModel,
    *,
    detector: Detector | None = None,
    workers: int,
    check: bool = False,
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Bring the index in `folder`, which has a manifest, up to what `pictures` are now. Every process of the group calls it.

    detector: finds people in whole frames, the one that the manifest names; None: a picture is one person. workers:
    processes that read and decode, of each process. check: compare every file's content, not only its size and stamp.
    OSError: no room, or a disk failed; what was committed stays, and the same call goes on from there.
    """
    ranks = Ranks.current()
    index = Index.open(folder)
    listing = share_of_first(pictures.listing, ranks)
    if not listing.found and index.num_pictures and not listing.unread:
        raise ValueError(
            f"{pictures.root} holds no picture, and {folder} knows {index.num_pictures:,} there: is a disk not mounted? If"
            " they are gone, remove the index"
        )
    changes = find_changes(index, listing, check=check)
    builder = _Builder(index, model, changes, ranks, detector)
    with contextlib.closing(builder.segments(pictures, workers=workers, progress=progress)) as segments:
        for segment in segments:
            builder.commit(segment)
    builder.commit(builder.ends())
    return _outcome(builder, listing)


class _Builder:
    """The index while it is filled."""

    def __init__(self, index: Index, model: SearchModel, changes: Changes, ranks: Ranks, detector: Detector | None) -> None:
        self.index = index
        self.counts: Counter[str] = Counter(unchanged=changes.num_unchanged, unseen=changes.num_unseen)
        self._model, self._changes, self._ranks, self._detector = model, changes, ranks, detector
        self._block = index.manifest.block
        self._first_of_digest = dict(changes.row_of_digest)
        self._notes = index.notes()
        self._moved: set[bytes] = set()
        self._look = Look(
            image_px=model.image_px,
            interpolation=model.pixels.interpolation,
            thumbnail_px=index.manifest.thumbnail_px,
            detects=detector is not None,
            every_ms=round(1000 * index.manifest.video_every_s),
        )

    def segments(self, pictures: Pictures, *, workers: int, progress: Progress) -> Generator[Segment]:
        """Each segment, empty but on the first process."""
        tasks = self._changes.tasks
        edges = _edges([weight_of(task.found) for task in tasks], self.index.manifest.recorded, self._block)
        pieces = [tasks[first:last] for first, last in itertools.pairwise(edges)]
        own = [[piece[block.start : block.stop] for block in self._own_blocks(len(piece))] for piece in pieces]
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(worker_pool(workers)) if workers and tasks else None
            parts = self._parts(pictures, [block for blocks in own for block in blocks])
            ready = _made_ready(pool, pictures, parts, self._look, workers)
            done = 0
            for blocks in own:
                prepared: list[Prepared] = []
                for block in blocks:
                    ends = False
                    while not ends:
                        part, ends = next(ready)
                        prepared += self._embedded(part)
                    done += len(block) * self._ranks.size  # the others are about as far
                    progress(min(done, len(tasks)), len(tasks))
                yield self._join(gather_to_first(prepared, self._ranks))

    def _own_blocks(self, num_files: int) -> list[range]:
        return self._ranks.own_blocks(num_files, block=self._block)

    def _parts(self, pictures: Pictures, blocks: Sequence[Sequence[Task]]) -> Iterator[tuple[list[Task], bool]]:
        """What is made ready together, and whether it ends its block."""
        for block in blocks:
            parts = parted(pictures, block, self._look, self._first_of_digest.__contains__)
            part = next(parts)
            for following in parts:
                yield part, False
                part = following
            yield part, True

    def _embedded(self, part: list[Prepared]) -> list[Prepared]:
        """With features in place of pixels, where the content is not in an earlier segment."""
        part = [
            replace(each, known=True, views=(), frames=()) if each.sha256 in self._first_of_digest else each for each in part
        ]
        if self._detector is not None:
            part = [with_people(each, self._detector, self._look) for each in part]
        pixels = [view.pixels_CHW for each in part for view in each.views if view.pixels_CHW is not None]
        features: list[NDArray[np.float16]] = []
        for first in range(0, len(pixels), self._block):
            pixels_ICHW = torch.from_numpy(np.stack(pixels[first : first + self._block]))
            features += list(self._model.features_of(pixels_ICHW).to(torch.float16).cpu().numpy())
        feature = iter(features)
        return [
            replace(each, views=tuple(replace(view, pixels_CHW=None, feature_E=next(feature)) for view in each.views))
            for each in part
        ]

    def _join(self, parts: Sequence[list[Prepared]]) -> Segment:
        """The segment of what all processes bring; an empty one on all but the first."""
        segment = Segment()
        wanted = "" if self._detector is None else self._detector.wanted
        prepared = itertools.chain.from_iterable(parts)
        for _, of_file in itertools.groupby(prepared, key=lambda each: each.found.path):
            self._add(joined(list(of_file), wanted=wanted), segment)
        return segment

    def _add(self, prepared: Prepared, segment: Segment) -> None:
        found, changes = prepared.found, self._changes
        before = changes.rows_of_path.get(found.path, [])
        if prepared.skipped:
            segment.ended += before
            skipped = Skipped(found.path, found.size, found.stamp, prepared.skipped)
            if changes.skipped.get(found.path) != skipped:
                segment.skipped.append(skipped)
                segment.recorded += weight_of(found)
            return
        kept = None if prepared.views else self._first_of_digest[prepared.sha256]
        if before and kept is not None and self._is_same(before[0], prepared):
            self.counts["unchanged"] += 1
            return
        self._count(prepared, before, kept)
        segment.ended += before
        if found.path in changes.skipped:
            segment.forgotten.append(found.path)
        segment.recorded += weight_of(found)
        if kept is None:
            segment.rows += [self._row(prepared, view, number) for number, view in enumerate(prepared.views)]
            segment.features += [_given(view.feature_E) for view in prepared.views]
        else:
            segment.rows += [self._row_again(prepared, row, number) for number, row in enumerate(self.index.views(kept))]
            segment.features += [self.index.feature(row) for row in self.index.views(kept)]

    def _is_same(self, row: int, prepared: Prepared) -> bool:
        picture, found = self.index.picture(row), prepared.found
        return (picture.sha256, picture.size, picture.stamp) == (prepared.sha256.hex(), found.size, found.stamp)

    def _count(self, prepared: Prepared, before: list[int], kept: int | None) -> None:
        if kept is None:
            self.counts["encoded"] += len(prepared.views)
            self.counts["changed" if before else "new"] += 1
        elif before:
            same = self.index.picture(before[0]).sha256 == prepared.sha256.hex()
            self.counts["touched" if same else "changed"] += 1
        elif (old := self.index.path(kept)) in self._changes.gone and old not in self._moved:
            self._moved.add(old)
            self.counts["moved"] += 1
        else:
            self.counts["new"] += 1
            self.counts["copies"] += 1

    def _row(self, prepared: Prepared, view: View, number: int) -> Row:
        """What a new row says of a view, the `number`-th of its file, whose first one bears the file's note."""
        return Row(
            path=prepared.found.path,
            size=prepared.found.size,
            stamp=prepared.found.stamp,
            sha256=prepared.sha256,
            size_px=view.size_px,
            taken_s=prepared.taken_s + (view.offset_ms or 0) // 1000,
            thumbnail=view.thumbnail,
            note="" if number else prepared.note,
            box=view.box,
            offset_ms=view.offset_ms,
            view=number,
        )

    def _row_again(self, prepared: Prepared, row: int, number: int) -> Row:
        """A new row for a file of the content of an earlier row, whose thumbnail and sizes it takes."""
        old = self.index.picture(row)
        return Row(
            path=prepared.found.path,
            size=prepared.found.size,
            stamp=prepared.found.stamp,
            sha256=prepared.sha256,
            size_px=(old.width_px, old.height_px),
            taken_s=prepared.taken_s + (old.offset_ms or 0) // 1000,
            thumbnail=self.index.thumbnail_place(row),
            note=self._notes.get(row, ""),
            box=old.box,
            offset_ms=old.offset_ms,
            view=number,
        )

    def ends(self) -> Segment:
        """The last segment: what is gone. Only then, so that what has moved is found among it."""
        segment = Segment()
        if self._ranks.rank == 0:
            segment.ended = sorted(itertools.chain.from_iterable(self._changes.gone.values()))
            segment.forgotten = self._changes.forgotten
            self.counts["deleted"] = len(self._changes.gone) - self.counts["moved"]
        return segment

    def commit(self, segment: Segment) -> None:
        """Append what the first process has gathered; all processes see it then. An empty segment is left out."""
        before = self.index.manifest

        def write() -> Manifest:
            return before if segment.empty else _append(self.index, segment)

        manifest = share_of_first(write, self._ranks)
        if len(manifest.segments) == len(before.segments):
            return
        first = self.index.num_rows
        self.index = self.index.grown(manifest)
        for row, digest in enumerate(self.index.last_digests(), start=first):
            self._first_of_digest.setdefault(digest, row)
        self._notes = self._notes | self.index.last_notes()


def _append(index: Index, segment: Segment) -> Manifest:
    """Write a segment and the manifest that names it."""
    manifest = index.manifest
    number = len(manifest.segments) + 1
    try:
        files = write_segment(index.folder, number, segment)
        width = manifest.width or (len(segment.features[0]) if segment.features else 0)
        entry = {"rows": len(segment.rows), "recorded": segment.recorded, "files": files}
        grown = replace(manifest, width=width, segments=(*manifest.segments, entry))
        write_manifest(index.folder, grown)
    except OSError as error:
        raise OSError(
            f"{index.folder} cannot be written: {words_of(error)}; the {index.num_pictures:,} pictures that it holds stay;"
            " make room, and the same command goes on from there"
        ) from error
    return grown


def _given(feature: NDArray[np.float16] | None) -> NDArray[np.float16]:
    assert feature is not None, "a picture is embedded, or its content is known"
    return feature


def _edges(weights: Sequence[int], recorded: int, block: int) -> list[int]:
    """Where segments begin and end among the files to be read: each weighs an eighth of what is recorded before it."""
    edges, weighed = [0], recorded
    while edges[-1] < len(weights):
        blocks = min(max(weighed // (_SHARE * block), _LEAST_BLOCKS), _MOST_BLOCKS)
        full = weighed + blocks * block
        last = edges[-1]
        while last < len(weights) and weighed < full:
            weighed += weights[last]
            last += 1
        edges.append(last)
    return edges


def _made_ready(
    pool: ProcessPoolExecutor | None,
    pictures: Pictures,
    parts: Iterable[tuple[Sequence[Task], bool]],
    look: Look,
    workers: int,
) -> Iterator[tuple[list[Prepared], bool]]:
    """What becomes of the tasks of each part, in order, and whether it ends a block; some are made ready ahead."""
    if pool is None:
        yield from ((prepare(pictures, tasks, look), ends) for tasks, ends in parts)
        return
    waiting: deque[tuple[Future[list[Prepared]], bool]] = deque()
    for part, ends in parts:
        reader, tasks = (pictures, part) if pictures.reads_ahead else (None, [_read(pictures, task) for task in part])
        waiting.append((pool.submit(prepare, reader, tasks, look), ends))
        if len(waiting) > _AHEAD * workers:
            future, ended = waiting.popleft()
            yield future.result(), ended
    for future, ended in waiting:
        yield future.result(), ended


def _read(pictures: Pictures, task: Task) -> Task:
    return replace(task, content=pictures.read(task.found.path))


def _outcome(builder: _Builder, listing: Listing) -> Outcome:
    index = builder.index
    skipped = [Problem(each.path, each.reason) for each in index.skipped().values()]
    notes = [Problem(index.path(row), note) for row, note in index.notes().items() if index.live_N[row]]
    return Outcome(
        counts=builder.counts,
        num_pictures=index.num_pictures,
        num_files=index.num_files,
        skipped=tuple(sorted([*skipped, *listing.problems], key=lambda problem: problem.path)),
        notes=tuple(sorted(notes, key=lambda problem: problem.path)),
        digest=index.manifest.digest(),
    )
