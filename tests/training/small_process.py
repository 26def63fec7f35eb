"""The small run in a process of its own: for tests that kill it, and as a script for launchers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from small_method import WORKERS, score, small_parts, small_run

from tbps.runs.metrics_log import TIMES
from tbps.runs.run_folder import RunFolder
from tbps.training.loop import train
from tbps.training.process_end import end_process


def run_small(runs: str, changes: dict[str, Any], parts_changes: dict[str, Any], slow_evaluation: str = "") -> None:
    """Train; messages go to `runs`/log.txt. slow_evaluation: "val" or "test" takes a minute."""
    logging.basicConfig(filename=Path(runs) / "log.txt", level=logging.INFO, format="%(levelname)s %(message)s")
    run = small_run(Path(runs), **{"workers": WORKERS, **changes})
    parts = small_parts(run, **parts_changes)
    if slow_evaluation:
        slow: dict[str, Any] = {"validate" if slow_evaluation == "val" else "test": _slow_score}
        parts = replace(parts, **slow)
    made: list[Any] = []
    build = parts.build
    parts = replace(parts, build=lambda: made.append(build()) or made[-1])  # type: ignore[func-returns-value]
    try:
        train(run, parts)
        _write_digest(made[0], Path(runs) / f"rank-{os.environ.get('RANK', '0')}.sha256")
    except (ValueError, OSError) as error:
        logging.getLogger().error("%s: %s", type(error).__name__, error)
        sys.exit(1)


def _write_digest(method: Any, file: Path) -> None:
    """Of everything that this process holds of the method, momentum encoder and queue included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(method.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    file.write_text(digest.hexdigest())


def _slow_score(method: Any, step: int) -> dict[str, float]:
    logging.getLogger().info("slow evaluation of step %d", step)
    for _ in range(600):  # a signal that comes right before a sleep is seen after it
        time.sleep(0.1)
    return score(method, step)


def start(
    runs: Path, *, slow_evaluation: str = "", dropout: float = 0.2, nan_step: int = -1, **changes: Any
) -> ForkServerProcess:
    """Start the run in `runs`; `changes` go to `small_run`."""
    runs.mkdir(exist_ok=True)
    parts_changes = {"dropout": dropout, "nan_step": nan_step}
    from ready_python import fork_of_imports  # this file is a script of launchers, too

    process = fork_of_imports(run_small, str(runs), changes, parts_changes, slow_evaluation)
    process.start()
    return process


def loader_workers(process: ForkServerProcess) -> list[int]:
    """Those that live now."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def finish(runs: Path, **changes: Any) -> int | None:
    """Run to the end; the exit status."""
    process = start(runs, **changes)
    process.join(60)
    return process.exitcode


def log_of(runs: Path) -> str:
    """Everything that was logged."""
    file = runs / "log.txt"
    return file.read_text() if file.exists() else ""


def wait_for_log(runs: Path, text: str) -> None:
    """Wait until `text` was logged."""
    _wait(runs, lambda log: text in log, text)


def wait_for_start(runs: Path, *, times: int) -> None:
    """Wait until training began or went on `times` times."""
    starts = ("starting from random weights", "steps done)")
    _wait(runs, lambda log: sum(log.count(start) for start in starts) >= times, f"start {times}")


def _wait(runs: Path, reached: Callable[[str], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not reached(log_of(runs)):
        assert time.monotonic() < deadline, f"{what!r} was not logged within a minute:\n{log_of(runs)}"
        time.sleep(0.01)


def final_state(runs: Path, step: int) -> dict[str, str]:
    """Digests of weights, momentum encoder and queue, and of the optimiser state, after `step` steps."""
    folder = RunFolder(runs / "small" / "test")
    manifest = json.loads((folder.checkpoints / f"step-{step:08d}" / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def metrics(runs: Path) -> list[dict[str, Any]]:
    """The log without times."""
    lines = [json.loads(line) for line in (runs / "small" / "test" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


if __name__ == "__main__":
    status = 0
    try:
        run_small(sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    end_process(status)
