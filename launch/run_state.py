"""How far a run is and what happens to it now, from its folder and Slurm's queue. Reads, never writes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launch.failure import read_failure
from launch.job_record import JobRecord, read_record
from launch.planned_run import holder_of
from launch.restarts import read_restarts
from launch.slurm import Queue, ended_as
from tbps.config.run import Run
from tbps.runs import checkpoint
from tbps.runs.run_folder import RunFolder
from tbps.training.schedule import total_steps

Kind = Literal["new", "pending", "running", "stopped", "failed", "finished", "unknown", "unreadable"]
_TAIL_BYTES = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The end of `metrics.jsonl`."""

    step: int = 0
    total: int = 0
    """0 = not known yet."""
    loss: float | None = None
    pairs_per_s: float | None = None
    """Of all processes, at the last line of progress; None before the first."""
    age_s: float | None = None
    """Seconds since something was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """`new`: never asked for; `stopped`: begun by hand, not by a job; `failed`: its job has ended and it is not finished;
    `unreadable`: a file of its folder is damaged or of another version."""

    kind: Kind
    progress: Progress
    record: JobRecord | None = None
    reason: str = ""
    """Why it is pending, who runs it, why it failed, or what cannot be read."""
    of_memory: bool = False
    restarts: str = "-"
    """How often the last job was started again, and why it was the last time."""


def state_of(folder: RunFolder, run: Run | None, queue: Queue | None, *, also_on: Sequence[str] = ()) -> RunState:
    """run: None = as its config says, if it has one. queue: None where Slurm cannot be asked.

    also_on: benchmarks that a finished run has been scored on as well.
    """
    try:
        if run is None and folder.config.exists():
            run = folder.read_run()
        return _state_of(folder, run, queue, also_on)
    except (ValueError, OSError) as error:  # one bad folder must not hide the others
        return RunState(kind="unreadable", progress=Progress(), reason=str(error))


def _state_of(folder: RunFolder, run: Run | None, queue: Queue | None, also_on: Sequence[str]) -> RunState:
    record = read_record(folder.path)
    known: dict[str, Any] = {
        "progress": read_progress(folder, run) if run else Progress(),
        "record": record,
        "restarts": restarts_in_words(folder),
    }
    if record is not None and queue is not None and record.job in queue:
        queued = queue[record.job]
        is_pending = queued.state in ("pending", "requeued", "requeue_hold")
        return RunState(kind="pending" if is_pending else "running", reason=queued.reason, **known)
    if holder := holder_of(folder):
        return RunState(kind="running", reason=holder, **known)
    if run is not None and is_finished(folder, run, also_on=also_on):
        return RunState(kind="finished", **known)
    if record is None:
        return RunState(kind="stopped" if folder.config.exists() else "new", **known)
    if record.job and queue is None:
        return RunState(kind="unknown", reason=f"job {record.job} cannot be looked up without Slurm", **known)
    failure = read_failure(record, ended_as=ended_as(record.job) if record.job else "")
    return RunState(kind="failed", reason=failure.cause, of_memory=failure.of_memory, **known)


def restarts_in_words(folder: RunFolder) -> str:
    """For example "2 (preemption)"; "-" where no job has started."""
    found = read_restarts(folder.path)
    damaged = f"; damaged lines in restarts.jsonl: {found.damaged}" if found.damaged else ""
    if not found.starts:
        return f"-{damaged}"
    last = found.starts[-1]
    return (f"{last['restart']} ({last['cause']})" if last["restart"] else "0") + damaged


def is_finished(folder: RunFolder, run: Run, *, also_on: Sequence[str] = ()) -> bool:
    """All steps are saved, and what was to be tested is tested."""
    steps = checkpoint.steps_in(folder.checkpoints)
    if not steps:
        return False
    try:
        total = int(checkpoint.read_progress(checkpoint.folder_of(folder.checkpoints, steps[-1]))["total_steps"])
    except (OSError, ValueError, KeyError, TypeError):  # broken: training itself will say so and go back to an older one
        return False
    tested = not run.evaluation.test or folder.read_evaluation("test", total) is not None
    elsewhere = all((folder.path / "results" / f"cross-set-{benchmark}-test.json").exists() for benchmark in also_on)
    return steps[-1] == total and tested and elsewhere


def read_progress(folder: RunFolder, run: Run) -> Progress:
    """From the last whole lines of the log; a log that is just written to may end in half a line."""
    try:
        with folder.metrics.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = [_line(text) for text in file.read().splitlines()]
        age_s = max(0.0, time.time() - folder.metrics.stat().st_mtime)
    except FileNotFoundError:
        return Progress()
    trained = next((line for line in reversed(lines) if _is_trained(line)), None)
    if trained is None:
        return Progress(age_s=age_s)
    total = total_steps(run.schedule, steps_per_epoch=trained["step"] / trained["epoch"])
    speeds = (line.get("pairs_per_s") for line in reversed(lines))
    pairs_per_s = next((float(speed) for speed in speeds if isinstance(speed, int | float)), None)
    return Progress(step=trained["step"], total=total, loss=trained["loss"], pairs_per_s=pairs_per_s, age_s=age_s)


def _is_trained(line: dict[str, Any]) -> bool:
    is_whole = all(isinstance(line.get(name), int | float) for name in ("step", "epoch", "loss"))
    return is_whole and line["epoch"] > 0


def _line(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}
