"""Locks on files; and file systems that have none: Lustre mounted without flock, NFS without its lock service, some FUSE."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import time
from pathlib import Path
from typing import IO, Literal

logger = logging.getLogger(__name__)

WITHOUT = "TBPS_WITHOUT_LOCKS"
"""Environment variable by which a user says: no file system here has locks, I see to it that a run has one copy only."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_POLL_S = 0.5
_FLOCK = "hhqqi"
"""C's struct flock on 64-bit Linux: type, whence, start, length, process."""


def take(file: IO[str], *, wait_s: float = 0.0) -> bool:
    """Take the POSIX lock of a file that is open for writing; False where another process still holds it after `wait_s`.

    It is gone with the process, however that ends, and not inherited by forked ones. ValueError where the file system has no
    locks, unless the user has said to go without: then True, and nothing is locked.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                _go_without(Path(file.name))
                return True
            if not isinstance(error, BlockingIOError | PermissionError):
                raise
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        else:
            return True


def holder_of(path: Path) -> str:
    """What the file says of the process that has locked it; empty if nobody has, or where there are no locks.

    Asks without locking, which could turn away a process that just starts.
    """
    if _ask(path) in (fcntl.F_UNLCK, None):
        return ""
    return path.read_text(encoding="utf-8", errors="replace").strip() or "unknown"


def who_has_it(path: Path) -> Literal["not there", "taken", "held"]:
    """Tries a lock that another process holds, and lets go: `held` by that one, `taken` by this one too.

    `not there`: that process made the file in another folder of this name. Here, where nothing heavy is imported, because a
    process is started to try it.
    """
    if not path.exists():
        return "not there"
    with path.open("a+", encoding="utf-8") as file:
        return "taken" if take(file) else "held"


def are_missing(path: Path) -> bool:
    """Whether the file system of a file has no locks."""
    return _ask(path) is None


def check(path: Path) -> None:
    """ValueError, as `take` gives it, if the file system of a file has no locks. Takes none."""
    if are_missing(path):
        _go_without(path)


def no_locks(folder: Path) -> str:
    """What to tell the user."""
    return (
        f"the file system of {folder} has no locks, so nothing would keep a second copy of a run out; mount it with locks"
        " (Lustre: -o flock, NFS: without nolock), choose another disk with --runs, or set"
        f" {WITHOUT}=1 where you see to it that each run has one copy only"
    )


def _ask(path: Path) -> int | None:
    """F_UNLCK, or how another process has locked the file; None where there are no locks."""
    with path.open("rb") as file:
        try:
            return int(
                struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)))[0]
            )
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return None
            raise


def _go_without(path: Path) -> None:
    if not os.environ.get(WITHOUT):
        raise ValueError(no_locks(path.parent))
    logger.warning("%s has no locks: as %s says, you see to it that each run has one copy only", path.parent, WITHOUT)
