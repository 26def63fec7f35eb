"""Shows a submitted run until its job has ended."""

from __future__ import annotations

import sys
import time

from launch.run_state import RunState, state_of
from launch.slurm import queue
from tbps.config.run import Run
from tbps.runs.run_folder import RunFolder

_EVERY_S = 2.0


def follow(run: Run, *, every_s: float = _EVERY_S) -> int:
    """A line whenever state or step changes; 0 if the run is finished at the end, else 1. Ctrl-C leaves the job alone."""
    shown = ""
    while True:
        state = state_of(RunFolder.of(run), run, queue())
        line = line_of(state)
        if line != shown:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            shown = line
        if state.kind not in ("pending", "running"):
            return 0 if state.kind == "finished" else 1
        try:
            time.sleep(every_s)
        except KeyboardInterrupt:
            sys.stdout.write("the job goes on; python -m launch.status shows it\n")
            return 0


def line_of(state: RunState) -> str:
    """State, place, loss and speed in one line."""
    parts = [f"{state.kind} ({state.reason})" if state.reason else state.kind]
    progress = state.progress
    if progress.step:
        parts.append(f"step {progress.step} of {progress.total or '?'}")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.pairs_per_s is not None:
        parts.append(f"{progress.pairs_per_s:.1f} pairs/s")
    if state.restarts not in ("-", "0"):
        parts.append(f"restarts {state.restarts}")
    return ", ".join(parts)
