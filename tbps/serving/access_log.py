"""Who asked for what: a line for each request, of time, address, request, status, bytes and milliseconds."""

from __future__ import annotations

import os
import sys
import threading
from datetime import datetime
from pathlib import Path

_MOST_CHARACTERS = 2000
"""Of a request; the rest of a longer one is left out."""


class AccessLog:
    """Lines on stderr, or at the end of a file that its owner alone may read. Safe to call from several threads."""

    def __init__(self, path: Path | None) -> None:
        """OSError: the file cannot be written."""
        self._lock = threading.Lock()
        self._failed = False
        self._file = None if path is None else os.fdopen(_append(path), "a", encoding="utf-8", buffering=1)

    def line(self, *, client: str, request: str, status: int, size: int, seconds: float) -> None:
        """Write one. A full disk costs lines, which is said once, and no answers."""
        shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in request)
        if len(shown) > _MOST_CHARACTERS:
            shown = f"{shown[:_MOST_CHARACTERS]}..."
        when = datetime.now().astimezone().isoformat(timespec="milliseconds")
        text = f"{when} {client} {shown} {status} {size} {1000 * seconds:.1f} ms\n"
        with self._lock:
            try:
                (self._file or sys.stderr).write(text)
                self._failed = False
            except (OSError, ValueError) as error:
                if not self._failed and self._file is not None:
                    sys.stderr.write(
                        f"tbps: the access log cannot be written ({error}); requests are answered all the same\n"
                    )
                self._failed = True

    def close(self) -> None:
        """The file is whole then."""
        if self._file is not None:
            self._file.close()


def _append(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
