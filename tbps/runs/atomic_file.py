"""Files that are either whole or not there, also after a power cut: write aside, fsync, rename, fsync the folder.

Where a file grows, what is appended is whole or not there, too.

Every error names the file: a system's own words for a full disk, or a JSON parser's for half a file, do not.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

_ASIDE = ".tmp"


def fsync_path(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`. OSError leaves what was there before."""
    aside = path.with_name(f".{path.name}.{os.getpid()}{_ASIDE}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        fsync_path(path.parent)
    except OSError as error:
        raise OSError(error.errno, words_of(error), str(path)) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def remove_asides(folder: Path, names: str = "*") -> None:
    """Remove what writers left aside that were killed, of files of such names. Call it where nobody else writes them."""
    for aside in folder.glob(f".{names}.*{_ASIDE}"):
        aside.unlink(missing_ok=True)


def read_json(path: Path, *, advice: str) -> Any:
    """A JSON value. ValueError names the file where it cannot be read, and ends with what to do."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({words_of(error)}); {advice}") from error
    except ValueError as error:
        why = "it is empty" if not path.stat().st_size else str(error)
        raise ValueError(f"{path} cannot be read ({why}); {advice}") from error


def words_of(error: OSError) -> str:
    """Why it failed, without the number and the names of files: `No space left on device`."""
    return error.strerror or str(error)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")


class WholeAppends:
    """A file that grows by whole pieces: a piece for which there is no room leaves nothing behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def append(self, piece: bytes) -> None:
        """Hand `piece` to the operating system, so that a killed process loses nothing. OSError: no room for all of it."""
        before = os.fstat(self._descriptor).st_size
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def append_line(path: Path, line: str) -> None:
    """Append one line and wait until it is on the disk. OSError leaves the file as it was.

    Half a line that an earlier end has left is ended first, so that it stays the only one that cannot be read.
    """
    before = path.read_bytes() if path.exists() else b""
    appends = WholeAppends(path)
    try:
        appends.append((b"\n" if before and not before.endswith(b"\n") else b"") + line.encode() + b"\n")
        appends.sync()
    finally:
        appends.close()
    if not before:
        fsync_path(path.parent)
