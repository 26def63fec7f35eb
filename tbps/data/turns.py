"""One process at a time, where several would make the same file; the others wait, say for whom, and not for ever."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tbps.data import file_lock

logger = logging.getLogger(__name__)

POLL_S = 0.1
FIRST_WORD_S, NEXT_WORD_S = 10.0, 60.0
"""Seconds of waiting after which it is said for whom, first and again."""


@contextmanager
def one_at_a_time(lock_file: Path, *, doing: str, growing: Path, patience_s: float) -> Iterator[None]:
    """Enter when no other process is inside with the same `lock_file`; of this node only, where there are no locks.

    doing: what the other one does, such as "fetches URL"; growing: the file that it writes. ValueError: that file did not
    grow for `patience_s` seconds while this process waited.
    """
    lock_file.touch()
    with (_on_this_node(lock_file) if file_lock.are_missing(lock_file) else lock_file).open("a+") as lock:
        _wait(lock, doing=doing, growing=growing, patience_s=patience_s)
        with contextlib.suppress(OSError):  # the name is for messages only; the disk may be full
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
        yield


def is_in_turn(lock_file: Path) -> bool:
    """Whether a process is inside with `lock_file` just now."""
    try:
        with (_on_this_node(lock_file) if file_lock.are_missing(lock_file) else lock_file).open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _on_this_node(lock_file: Path) -> Path:
    """A file in the folder for temporary files, which stands for `lock_file`."""
    folder = Path(tempfile.gettempdir()) / f"tbps-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / hashlib.sha256(str(lock_file.absolute()).encode()).hexdigest()[:32]


def _wait(lock: IO[str], *, doing: str, growing: Path, patience_s: float) -> None:
    began = moved = time.monotonic()
    size, next_word_s = size_of(growing), FIRST_WORD_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL_S)
        else:
            return
        now = time.monotonic()
        if (found := size_of(growing)) != size:
            size, moved = found, now
        if now - began > next_word_s:
            next_word_s += NEXT_WORD_S
            logger.warning("waiting for %s, which %s (%d bytes so far)", _holder(lock), doing, size)
        if now - moved > patience_s:
            raise ValueError(
                f"{_holder(lock)} {doing}, but nothing came of it for {now - moved:.0f} s; end that process and start again"
            )


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    return lock.read() or "another process"


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where it does not exist."""
    return path.stat().st_size if path.exists() else 0
