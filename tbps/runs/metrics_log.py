"""`metrics.jsonl`: one JSON object a line, `step` in each; lines of evaluations also name their `split`."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

from tbps.runs.atomic_file import WholeAppends, write_text

logger = logging.getLogger(__name__)

Line = dict[str, Any]
TIMES = ("pairs_per_s", "data_wait_s", "data_wait_share", "mfu", "memory_gib")
"""Numbers of a line that no two runs have in common. Of each step: seconds that a process waited for its pairs, as a mean
over processes. Of each line of progress, since the one before: pairs a second of all processes, the share of the time that
was spent waiting for pairs, and the share of the GPUs' arithmetic that was used (of cards that are known). And the most
memory that any process has used so far, in GiB: allocated on its GPU, or resident where it trains on the CPU."""
_TAIL_BYTES = 256 * 1024


class MetricsLog:
    """Appends lines. A resumed run first takes back what it will write again."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Open `path` as it was when `step` steps were done, its evaluations of that step not yet written."""
        _rewind(path, step)
        self._file = WholeAppends(path)

    def write(self, lines: list[Line]) -> None:
        """Append lines, so that a killed process loses none; OSError: none of them."""
        self._file.append("".join(json.dumps(line) + "\n" for line in lines).encode())

    def sync(self) -> None:
        """Wait until everything is on the disk: a checkpoint must not know more than the log."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def late_mean(path: Path, name: str) -> float | None:
    """Mean of a number over the last training steps that fit into 256 KiB of a log; None where it was not logged."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        rows = file.read().decode("utf-8", errors="replace").splitlines()[1 if size > _TAIL_BYTES else 0 :]
    values = [value for row in rows if (value := _number(row, name)) is not None]
    return sum(values) / len(values) if values else None


def _number(row: str, name: str) -> float | None:
    try:
        value = json.loads(row)[name]
    except (ValueError, KeyError, TypeError):  # cut off when the process was killed, or not logged
        return None
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _rewind(path: Path, step: int) -> None:
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    kept = [line for line in text.splitlines(keepends=True) if _is_before(line, step)]
    if "".join(kept) != text:
        logger.info("%s: going back to step %d, %d lines kept", path, step, len(kept))
        write_text(path, "".join(kept))


def _is_before(text: str, step: int) -> bool:
    try:
        line = json.loads(text)
        at = int(line["step"])
    except (ValueError, TypeError, KeyError):  # cut off when the process was killed, or damaged
        return False
    # A kill between an evaluation and the next step must give the same log as none: its line is written again.
    return bool(at < step or (at == step and "split" not in line)) and text.endswith("\n")
