"""Files behind http(s) and s3 URLs, kept in a local folder under the name of their content."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shlex
import time
from pathlib import Path

logger = logging.getLogger(__name__)

SCHEMES = ("http://", "https://", "s3://")
ATTEMPTS = 5
FIRST_PAUSE_S = 1.0
"""Wait before the second attempt; doubled before each further one."""
PIECE_BYTES = 1 << 20


def is_remote(root: str) -> bool:
    """Whether `root` is a URL that `fetch` understands. ValueError: another kind of URL."""
    if root.startswith(SCHEMES):
        return True
    if "://" in root:
        raise ValueError(f"data.root {root} has an unknown scheme, expected a folder or {', '.join(SCHEMES)}; copy the data")
    return False


def join(root: str, name: str) -> str:
    """URL of file `name` in folder `root`."""
    return f"{root.rstrip('/')}/{name}"


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, *, cache: Path, sha256: str, num_bytes: int) -> Path:
    """A local file with the content of `url`, downloaded unless it is in `cache`; safe with many processes at once.

    The file is named by its digest, so shards made anew never meet an old copy. ValueError after `ATTEMPTS` downloads that
    failed or did not have the expected digest.
    """
    path = cache / sha256[:2] / sha256
    if _complete(path, num_bytes):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _complete(path, num_bytes):
            return path
        partial = path.with_suffix(f".partial-{os.getpid()}")
        try:
            _retry(url, partial, expected=(sha256, num_bytes))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def read_text(url: str, *, cache: Path) -> str:
    """The text of a small file, downloaded each time."""
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f"text.partial-{os.getpid()}"
    try:
        _retry(url, partial, expected=None)
        return partial.read_text(encoding="utf-8")
    finally:
        partial.unlink(missing_ok=True)


def _complete(path: Path, num_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == num_bytes


def _retry(url: str, target: Path, *, expected: tuple[str, int] | None) -> None:
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            pause_s = FIRST_PAUSE_S * 2 ** (attempt - 1)
            logger.warning("%s: %s; trying again in %.1f s", url, problem, pause_s)
            time.sleep(pause_s)
        problem = _download(url, target, expected)
        if not problem:
            return
    raise ValueError(f"{url}: {problem}, {ATTEMPTS} times; check the address, your credentials and the network")


def _download(url: str, target: Path, expected: tuple[str, int] | None) -> str:
    """One attempt; returns what went wrong, or nothing."""
    from webdataset.gopen import gopen

    # webdataset has no handler for s3: the AWS command line copies to standard output.
    source = f"pipe:aws s3 cp --only-show-errors {shlex.quote(url)} -" if url.startswith("s3://") else url
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with gopen(source, "rb") as stream, target.open("wb") as file:
            while piece := stream.read(PIECE_BYTES):
                digest.update(piece)
                num_bytes += len(piece)
                file.write(piece)
    except OSError as error:
        return f"download failed ({error})"
    if expected and num_bytes != expected[1]:
        return f"got {num_bytes} bytes, expected {expected[1]}"
    if expected and digest.hexdigest() != expected[0]:
        return f"got sha256 {digest.hexdigest()[:12]}, expected {expected[0][:12]}"
    return ""
