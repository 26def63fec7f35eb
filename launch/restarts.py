"""`restarts.jsonl` in a run folder: every start of a Slurm job on the run, why it came, and the step it goes on from."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from launch.slurm_job import SlurmJob
from tbps.training import checkpoint
from tbps.training.atomic_file import write_json
from tbps.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

FILE = "restarts.jsonl"
MOST_WITHOUT_A_STEP = 3
"""Restarts in a row that may bring no new step; then something is wrong that another restart does not mend."""

_STOPPED = "stopped.json"
_NO_WORD = "unknown: the start before left no word (stopped before training, a rank or node died, or out of memory)"


def announce_start(folder: RunFolder, job: SlurmJob) -> None:
    """Write and log the line of this start. ValueError if the last restarts brought no step."""
    cause = _cause(folder, job) if job.restarts else "submitted"
    folder.lost.unlink(missing_ok=True)  # told once, and not of what ended outside of Slurm
    before = [line for line in read_restarts(folder.path) if line["job"] == job.id]
    line = {
        "job": job.id,
        "restart": job.restarts,
        "cause": cause,
        "step": max(checkpoint.steps_in(folder.checkpoints), default=0),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    # One start and its restarts, all from this step.
    if len(before) > MOST_WITHOUT_A_STEP and all(old["step"] == line["step"] for old in before[-MOST_WITHOUT_A_STEP - 1 :]):
        raise ValueError(
            f"job {job.id} was restarted {MOST_WITHOUT_A_STEP} times without a step after step {line['step']} (last cause:"
            f" {line['cause']}); it is not requeued again: look at its log, mend the cause and submit it anew"
        )
    folder.path.mkdir(parents=True, exist_ok=True)
    with (folder.path / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    logger.info("Slurm job %s, restart %d (%s), from step %d", job.id, job.restarts, line["cause"], line["step"])


def note_stop(folder: RunFolder, job: SlurmJob, cause: str) -> None:
    """Leave the cause of a stop for the next start."""
    if folder.path.is_dir():
        write_json(folder.path / _STOPPED, {"job": job.id, "restart": job.restarts, "cause": cause})


def read_restarts(run_folder: Path) -> list[dict[str, Any]]:
    """All starts of Slurm jobs on this run, oldest first; none if no job ran."""
    file = run_folder / FILE
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _cause(folder: RunFolder, job: SlurmJob) -> str:
    if folder.lost.exists():
        return folder.lost.read_text(encoding="utf-8")
    try:
        note: dict[str, Any] = json.loads((folder.path / _STOPPED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _NO_WORD
    return str(note["cause"]) if (note["job"], note["restart"]) == (job.id, job.restarts - 1) else _NO_WORD
