"""What has changed among the pictures since an index was written: which files are to be read, and what is gone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps.search.index import Index
from tbps.search.pictures import Found, Listing, is_video
from tbps.search.preparing import Task
from tbps.search.segment import Skipped

_WEIGHED_BYTES = 1 << 20
_HINTS = 16
"""Digests that a task brings along at most; of more pictures of one size, each is decoded and then compared."""


@dataclass(kw_only=True, slots=True)
class Changes:
    """The difference between a listing and an index."""

    tasks: list[Task] = field(default_factory=list)
    """New files and those of another size or stamp, by path."""
    rows_of_path: dict[bytes, list[int]] = field(default_factory=dict)
    """The live rows of each path that has some, ascending: one, or one for each person."""
    row_of_digest: dict[bytes, int] = field(default_factory=dict)
    """The first row of a file with the content of each digest, among files whose size a task has."""
    gone: dict[bytes, list[int]] = field(default_factory=dict)
    """Live rows by path whose file is not there any more."""
    forgotten: list[bytes] = field(default_factory=list)
    """Skipped files that are not there any more."""
    skipped: dict[bytes, Skipped] = field(default_factory=dict)
    """All files that the index knows as skipped."""
    num_unchanged: int = 0
    num_unseen: int = 0
    """Files in folders that could not be listed: they stay."""


def weight_of(found: Found) -> int:
    """How much work a file is, in pictures: where an index is committed depends on it. A video counts by its size."""
    return 1 + found.size // _WEIGHED_BYTES if is_video(found.path) else 1


def find_changes(index: Index, listing: Listing, *, check: bool) -> Changes:
    """Compare by size and stamp. check: read every file, for what was changed behind the back of its stamp."""
    changes = Changes(skipped=index.skipped())
    size_N, stamp_N = index.column("size_R"), index.column("stamp_R")
    live = index.live_N
    for row, path in enumerate(index.paths()):
        if live[row]:
            changes.rows_of_path.setdefault(path, []).append(row)
    to_read = [found for found in listing.found if not _is_known(found, changes, size_N, stamp_N, check=check)]
    to_be_read = {found.path for found in to_read}
    changes.num_unchanged = sum(f.path in changes.rows_of_path and f.path not in to_be_read for f in listing.found)
    there = {found.path for found in listing.found}
    unread = tuple(listing.unread)
    for path, rows in changes.rows_of_path.items():
        if path not in there:
            if path.startswith(unread):
                changes.num_unseen += 1
            else:
                changes.gone[path] = rows
    changes.forgotten = sorted(path for path in changes.skipped if path not in there and not path.startswith(unread))
    hints = _find_contents(index, to_read, size_N, changes)
    changes.tasks = [Task(found=found, known=tuple(hints.get(found.size, ()))) for found in to_read]
    return changes


def _is_known(found: Found, changes: Changes, size_N: NDArray[Any], stamp_N: NDArray[Any], *, check: bool) -> bool:
    if check:
        return False
    rows = changes.rows_of_path.get(found.path)
    if rows is not None:
        return bool(size_N[rows[0]] == found.size and stamp_N[rows[0]] == found.stamp)
    skipped = changes.skipped.get(found.path)
    return skipped is not None and (skipped.size, skipped.stamp) == (found.size, found.stamp)


def _find_contents(index: Index, to_read: list[Found], size_N: NDArray[Any], changes: Changes) -> dict[int, list[bytes]]:
    """Digests of the rows of each size that is to be read; fills `row_of_digest`."""
    hints: dict[int, list[bytes]] = {}
    if not to_read or not index.num_rows:
        return hints
    rows = np.flatnonzero(np.isin(size_N, np.unique([found.size for found in to_read])))
    digests = index.column("sha256_R32")[rows]
    for row, digest in zip(rows.tolist(), digests, strict=True):
        content = digest.tobytes()
        if content not in changes.row_of_digest:
            changes.row_of_digest[content] = row
            of_size = hints.setdefault(int(size_N[row]), [])
            if len(of_size) < _HINTS:
                of_size.append(content)
    return hints
