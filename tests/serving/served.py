"""`tbps serve` as a process of its own, whose imports are done. It is no fork of this process: behind one that has computed
gradients, torch computes none in a thread."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ready_python import Ready

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server that answers."""

    process: Ready
    address: str
    """With its token, if it has one."""
    said: Path
    """All that it wrote: the access log too."""

    @property
    def port(self) -> int:
        found = re.search(r":(\d+)/", self.address)
        assert found is not None
        return int(found[1])


@contextmanager
def serving(index: Path, said: Path, *words: str, port: int = 0) -> Iterator[Served]:
    """`tbps serve INDEX --port PORT WORDS`, until the end of the block."""
    whole = [str(index), "--port", str(port), *words]
    command = [sys.executable, "-m", "tbps.command", "serve", *whole]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = Ready(command, folder=Path.cwd(), variables=variables, output=said, errors=said)
    try:
        yield Served(process=process, address=_address(process, said), said=said)
    finally:
        process.kill()
        process.wait()


def _address(process: Ready, said: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        text = said.read_text() if said.exists() else ""
        found = re.search(r"pictures at (http://\S+)\n", text)
        if found:
            return found[1]
        assert process.poll() is None, text
        time.sleep(0.05)
    raise AssertionError(f"no address within a minute: {said.read_text()}")
