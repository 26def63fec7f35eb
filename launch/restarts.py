"""`restarts.jsonl` in a run folder: every start of a Slurm job on the run, why it came, and the step it goes on from."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from launch.slurm_job import SlurmJob
from tbps.runs import checkpoint
from tbps.runs.atomic_file import append_line, write_json
from tbps.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

FILE = "restarts.jsonl"
MOST_WITHOUT_A_STEP = 3
"""Restarts in a row that may bring no new step; then something is wrong that another restart does not mend."""

_ASKED_FOR = ("preemption", "requeued")
"""Causes outside of the run, which do not count: a busy cluster may preempt it many times before its first step."""
_STOPPED = "stopped.json"
_NO_WORD = "unknown: the start before left no word (stopped before training, a rank or node died, or out of memory)"


def announce_start(folder: RunFolder, job: SlurmJob) -> None:
    """Write and log the line of this start. ValueError if the last restarts brought no step."""
    cause = _cause(folder, job) if job.restarts else "submitted"
    folder.lost.unlink(missing_ok=True)  # told once, and not of what ended outside of Slurm
    before = [line for line in read_restarts(folder.path).starts if line["job"] == job.id]
    line = {
        "job": job.id,
        "restart": job.restarts,
        "cause": cause,
        "step": max(checkpoint.steps_in(folder.checkpoints), default=0),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    from_here = list(itertools.takewhile(lambda old: old["step"] == line["step"], reversed(before)))
    restarts = [line, *from_here[:-1]] if from_here else []  # the oldest one is the start that they repeat
    if sum(restart["cause"] not in _ASKED_FOR for restart in restarts) > MOST_WITHOUT_A_STEP:
        raise ValueError(
            f"job {job.id} was restarted {MOST_WITHOUT_A_STEP} times without a step after step {line['step']} (last cause:"
            f" {line['cause']}); it is not requeued again: look at its log, mend the cause and submit it anew"
        )
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        append_line(folder.path / FILE, json.dumps(line))
    except OSError as error:
        logger.warning("%s: this start is not noted (%s); make room", folder.path / FILE, error.strerror)
    logger.info("Slurm job %s, restart %d (%s), from step %d", job.id, job.restarts, line["cause"], line["step"])


def note_stop(folder: RunFolder, job: SlurmJob, cause: str) -> None:
    """Leave the cause of a stop for the next start."""
    if folder.path.is_dir():
        write_json(folder.path / _STOPPED, {"job": job.id, "restart": job.restarts, "cause": cause})


@dataclass(frozen=True, kw_only=True, slots=True)
class Restarts:
    """What `restarts.jsonl` tells."""

    starts: list[dict[str, Any]]
    """Starts of Slurm jobs on the run, oldest first; none if no job ran."""
    damaged: int
    """Lines that cannot be read, such as half of one that was written when the node died."""


def read_restarts(run_folder: Path) -> Restarts:
    """A damaged line keeps nobody from reading the others, nor the run from starting again."""
    file = run_folder / FILE
    lines = file.read_bytes().splitlines() if file.exists() else []
    starts = [start for line in lines if (start := _start(line))]
    return Restarts(starts=starts, damaged=len(lines) - len(starts))


def _start(line: bytes) -> dict[str, Any]:
    """Empty where it cannot be read."""
    try:
        start = json.loads(line)
    except ValueError:
        return {}
    types = {"job": str, "restart": int, "cause": str, "step": int}
    is_whole = isinstance(start, dict) and all(isinstance(start.get(name), kind) for name, kind in types.items())
    return start if is_whole else {}


def _cause(folder: RunFolder, job: SlurmJob) -> str:
    if folder.lost.exists():
        return folder.lost.read_text(encoding="utf-8", errors="replace")
    try:
        note: dict[str, Any] = json.loads((folder.path / _STOPPED).read_text(encoding="utf-8"))
        return str(note["cause"]) if (note["job"], note["restart"]) == (job.id, job.restarts - 1) else _NO_WORD
    except (OSError, ValueError, KeyError, TypeError):
        return _NO_WORD
