"""Files behind http(s) and s3 URLs, kept in a local folder under the name of their content."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from tbps.data import file_lock
from tbps.data.cache_room import PLANNED, CacheRoom
from tbps.data.transfer import IDLE_S, Failed, Refused, copy_http, copy_s3
from tbps.data.turns import one_at_a_time, size_of

logger = logging.getLogger(__name__)

SCHEMES = ("http://", "https://", "s3://")
PATIENCE_S = 120.0
"""Seconds without progress, over all attempts, after which a file is given up where nothing else is asked for."""
WRONG_COPIES = 3
"""Downloads with another content than expected before a file is given up."""
FIRST_PAUSE_S = 1.0
"""Wait before the second attempt; doubled before each further one, up to LONGEST_PAUSE_S, and begun anew after progress."""
LONGEST_PAUSE_S = 30.0
PROGRESS_BYTES = 1 << 16
"""What an attempt must add to count as progress."""


def is_remote(root: str) -> bool:
    """Whether `root` is a URL that `fetch` understands. ValueError: another kind of URL."""
    if root.startswith(SCHEMES):
        return True
    if "://" in root:
        raise ValueError(f"data.root {root} has an unknown scheme, expected a folder or {', '.join(SCHEMES)}; copy the data")
    return False


def join(root: str, name: str) -> str:
    """URL of file `name` in folder `root`; what follows a ? in an http(s) root, such as a signature, is kept."""
    if root.startswith("s3://"):
        return f"{root.rstrip('/')}/{name}"
    parts = urlsplit(root)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))


def shown(url: str) -> str:
    """The URL for a message or a report: without password and signature. What is no http(s) URL comes back as it is."""
    parts = urlsplit(url) if url.startswith(("http://", "https://")) else None
    if parts is None or (not parts.query and "@" not in parts.netloc):
        return url
    query = "..." if parts.query else ""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, *, cache: Path, sha256: str, num_bytes: int, patience_s: float = PATIENCE_S) -> Path:
    """A local file with the content of `url`, downloaded unless it is in `cache`; safe with many processes at once.

    The file is named by its digest, so shards made anew never meet an old copy. A download that broke off is gone on with.
    ValueError: nothing came for `patience_s` seconds, the server refused, or the content is not the expected one.
    """
    path = cache / sha256[:2] / sha256
    if not _complete(path, num_bytes):
        os.close(_open_fetched(path, url, num_bytes, patience_s=patience_s, room=None))
    return path


def fetch_open(
    url: str, *, cache: Path, sha256: str, num_bytes: int, patience_s: float = PATIENCE_S, room: CacheRoom
) -> int:
    """As `fetch`, a descriptor of the file: it can be read even if another process now needs its place in `room`.

    ValueError: as `fetch`, or the room is too small.
    """
    path = cache / sha256[:2] / sha256
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY)
        if os.fstat(descriptor).st_size == num_bytes:
            with contextlib.suppress(FileNotFoundError):  # it was evicted just now
                os.utime(path)
            return descriptor
        os.close(descriptor)
    return _open_fetched(path, url, num_bytes, patience_s=patience_s, room=room)


def _open_fetched(path: Path, url: str, num_bytes: int, *, patience_s: float, room: CacheRoom | None) -> int:
    """Download the file to `path`, which is named by its digest, unless another process has; a descriptor of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _turn(path, url, patience_s):
        if _complete(path, num_bytes):
            return os.open(path, os.O_RDONLY)
        path.unlink(missing_ok=True)  # cut short
        if room is not None:
            room.make(path, num_bytes, patience_s=patience_s)
        partial = _partial(path)
        _try_again(
            url, partial, lambda: _difference(partial, path.name, num_bytes), num_bytes=num_bytes, patience_s=patience_s
        )
        descriptor = os.open(partial, os.O_RDONLY)
        os.fsync(descriptor)  # a power cut leaves no whole name on half a content
        os.replace(partial, path)
        path.with_suffix(PLANNED).unlink(missing_ok=True)
        return descriptor


def forget_damaged(url: str, *, cache: Path, sha256: str, patience_s: float = PATIENCE_S) -> None:
    """Remove the cached file of `url` where it has another content than it should, so that it is fetched once more."""
    path = cache / sha256[:2] / sha256
    with _turn(path, url, patience_s):
        if path.exists() and sha256_of(path) != sha256:
            logger.warning("the copy of %s in %s was damaged: fetching it once more", shown(url), cache)
            path.unlink()


def read_text(url: str, *, cache: Path, patience_s: float = PATIENCE_S) -> str:
    """The text of a small file, downloaded each time."""
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f"text.partial-{os.getpid()}"
    try:
        _try_again(url, partial, lambda: "", patience_s=patience_s)
        return partial.read_text(encoding="utf-8")
    finally:
        partial.unlink(missing_ok=True)


def _complete(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes


def _difference(path: Path, sha256: str, num_bytes: int) -> str:
    if (found := size_of(path)) != num_bytes:
        return f"got {found} bytes, expected {num_bytes}"
    if (digest := sha256_of(path)) != sha256:
        return f"got sha256 {digest[:12]}, expected {sha256[:12]}"
    return ""


def _turn(path: Path, url: str, patience_s: float) -> AbstractContextManager[None]:
    # Another one gives up after half of this, if it lives.
    growing, doing = _partial(path), f"fetches {shown(url)}"
    return one_at_a_time(path.with_suffix(".lock"), doing=doing, growing=growing, patience_s=2 * patience_s)


def _partial(path: Path) -> Path:
    """Where a download grows: without locks, one for each node, whose processes still take turns."""
    lock = path.with_suffix(".lock")
    lock.touch()
    return path.with_suffix(f".partial-{platform.node()}" if file_lock.are_missing(lock) else ".partial")


# -- attempts -------------------------------------------------------------------------------------------------------------


def _try_again(
    url: str, target: Path, difference: Callable[[], str], *, num_bytes: int | None = None, patience_s: float
) -> None:
    """Download `url` to `target`, in as many attempts as make progress; `difference` says what is wrong with the content.

    num_bytes: that the file should have; None = not known.
    """
    copy = copy_s3 if url.startswith("s3://") else copy_http
    idle_s = min(IDLE_S, patience_s / 2)
    moved, size, wrong, pause_s = time.monotonic(), size_of(target), 0, FIRST_PAUSE_S
    while True:
        asked_s = 0.0
        try:
            copy(url, target, idle_s=idle_s, num_bytes=num_bytes, name=shown(url))
            problem = difference()
            if not problem:
                return
            target.unlink()
            wrong += 1
        except Refused as error:
            raise ValueError(f"{shown(url)}: {error}; check the address and your credentials") from None
        except Failed as error:
            problem, asked_s = str(error), error.retry_after_s
        if not wrong and size_of(target) >= size + PROGRESS_BYTES:
            moved, size, pause_s = time.monotonic(), size_of(target), FIRST_PAUSE_S
        if wrong == WRONG_COPIES:
            raise ValueError(f"{shown(url)}: {problem}, {wrong} times; {_WRONG_CONTENT}")
        wait_s = max(pause_s, asked_s)
        waited_s = time.monotonic() - moved
        if waited_s + wait_s > patience_s:
            raise ValueError(f"{shown(url)}: {problem}; gave up after {waited_s:.0f} s without progress; {_NO_ANSWER}")
        logger.warning("%s: %s; trying again in %.1f s, for %.0f s more", shown(url), problem, wait_s, patience_s - waited_s)
        time.sleep(wait_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


_WRONG_CONTENT = "the file is another one than its index says: check the address, or create the shards again"
_NO_ANSWER = "check server, network and proxy, then run the same command again; --loop.timeout-s sets the patience"
