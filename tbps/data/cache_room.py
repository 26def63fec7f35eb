"""Room in a folder of fetched shards that many processes share: the shards read longest ago make way for new ones.

A shard counts from the moment its download begins. One that is evicted while a process has it open can be read to the end of
that read; so processes keep none open (see `tbps.data.shards`). Tables and attribute chunks, which training needs all the
time, stay and are not counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tbps.data.sample_order import BLOCK_PAIRS, WINDOW_BLOCKS
from tbps.data.turns import is_in_turn, one_at_a_time, size_of

logger = logging.getLogger(__name__)

BYTES_PER_MB = 1_000_000
POLL_S = 0.1
_DIGEST_LETTERS = 64
PLANNED = ".planned"
"""Ending of the file beside a download that says how many bytes it will have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """A shard in the cache, whole or begun."""

    path: Path
    """Of the whole one."""
    num_bytes: int
    used: float
    """When it was last read, or written, in seconds."""
    growing: bool
    """Whether a process that lives fetches it."""


class CacheRoom:
    """A bound for the shards in a cache folder."""

    def __init__(self, cache: Path, *, most_bytes: int) -> None:
        self.cache, self.most_bytes = cache, most_bytes

    def check(self, num_bytes: Mapping[str, int], *, num_pairs: int) -> None:
        """Before any shard is fetched; num_bytes: of each, by name; num_pairs: in all of them.

        ValueError: one does not fit alone. A warning where those that are read at a time do not fit together.
        """
        name, largest = max(num_bytes.items(), key=lambda shard: shard[1])
        if largest > self.most_bytes:
            raise ValueError(f"shard {name}: {self._too_small(largest)}")
        total = sum(num_bytes.values())
        wanted = min(total, WINDOW_BLOCKS * (BLOCK_PAIRS * total // num_pairs + largest))
        if wanted > self.most_bytes:
            logger.warning(
                "data.cache_mb is %d: shards will be fetched several times in an epoch, as the pairs of one window of the"
                " order lie in shards of about %d MB together; set it to that, or make smaller shards",
                self.most_bytes // BYTES_PER_MB,
                -(-wanted // BYTES_PER_MB),
            )

    def _too_small(self, num_bytes: int) -> str:
        return (
            f"{num_bytes / 1e6:.1f} MB do not fit into the {self.most_bytes / 1e6:.1f} MB for shards in {self.cache}; set"
            " --data.cache-mb higher, or make smaller shards"
        )

    def make(self, path: Path, num_bytes: int, *, patience_s: float) -> None:
        """Return when the file `path`, whose turn it is (see `turns`), may be downloaded: then its bytes are reserved.

        ValueError: the bound is too small, or other downloads leave no room and did not grow for `patience_s` seconds.
        """
        if num_bytes > self.most_bytes:
            raise ValueError(f"{path.name}: {self._too_small(num_bytes)}")
        path.with_suffix(PLANNED).unlink(missing_ok=True)  # of a process that was killed
        moved, before = time.monotonic(), -1
        while (taken := self._try(path, num_bytes, patience_s)) is not None:
            if taken != before:
                moved, before = time.monotonic(), taken
            if (waited_s := time.monotonic() - moved) > patience_s:
                raise ValueError(
                    f"{self.cache} has no room for a shard of {num_bytes / 1e6:.1f} MB: {self.most_bytes / 1e6:.1f} MB are"
                    f" taken by downloads of other processes, which have not grown for {waited_s:.0f} s; set"
                    " --data.cache-mb higher, or look at the server"
                )
            time.sleep(POLL_S)

    def _try(self, path: Path, num_bytes: int, patience_s: float) -> int | None:
        """Evict what is needed and reserve, then None; else how many bytes the other downloads have."""
        lock = self.cache / "room.lock"
        with one_at_a_time(lock, doing=f"makes room in {self.cache}", growing=lock, patience_s=2 * patience_s):
            kept = [one for one in self._list() if one.path != path]
            over = sum(one.num_bytes for one in kept) + num_bytes - self.most_bytes
            idle = sorted((one for one in kept if not one.growing), key=lambda one: one.used)
            if over > sum(one.num_bytes for one in idle):
                return sum(size_of(begun) for one in kept if one.growing for begun in _begun(one.path))
            for one in idle:
                if over <= 0:
                    break
                over -= one.num_bytes
                _remove(one.path)
            path.with_suffix(PLANNED).write_text(str(num_bytes))
            return None

    def _list(self) -> list[_Kept]:
        names = {path.parent / path.name[:_DIGEST_LETTERS] for path in self.cache.glob("??/*")}
        return [one for path in names if len(path.name) == _DIGEST_LETTERS and (one := _look(path)) is not None]


def _look(path: Path) -> _Kept | None:
    """The shard of that name; None where there is none, or the file is none.

    Asked first is whether it is being fetched: a download that ends in the meantime leaves a whole file.
    """
    if (planned := _planned(path)) is not None and is_in_turn(path.with_suffix(".lock")):
        return _Kept(path=path, num_bytes=planned, used=0.0, growing=True)
    statuses = []
    for file in (path, *_begun(path)):
        with contextlib.suppress(FileNotFoundError):
            if _stays(file):
                return None
            statuses.append(file.stat())
    if not statuses:
        return None
    used = max(status.st_mtime for status in statuses)
    return _Kept(path=path, num_bytes=sum(status.st_size for status in statuses), used=used, growing=False)


def _begun(path: Path) -> list[Path]:
    """Downloads of a file, of which there are several where nodes share a cache without locks."""
    return list(path.parent.glob(f"{path.name}.partial*"))


def _remove(path: Path) -> None:
    for file in (path, *_begun(path), path.with_suffix(PLANNED)):
        file.unlink(missing_ok=True)


def _planned(path: Path) -> int | None:
    """Bytes that a download will have; None where none was begun, or not of a shard."""
    try:
        return int(path.with_suffix(PLANNED).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _stays(path: Path) -> bool:
    """Whether it is a table or a portion of attribute chunks: a safetensors file, whose header begins at byte 8."""
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), 1, 8) == b"{"
