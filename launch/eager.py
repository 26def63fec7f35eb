"""One point of a sweep on this machine, in processes of its own: its memory is free afterwards, its crash is its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from launch.job import record_for
from launch.sweep_points import PlannedPoint


def run_here(one: PlannedPoint, *, num_processes: int, micro_batch_pairs: int = 0) -> int:
    """Train the point and score it where else it is wanted; the exit status. Its output goes to `jobs/here.log`."""
    logs = one.planned.folder.path.absolute() / "jobs"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "here.log").unlink(missing_ok=True)
    record_for(one.planned, job="", logs=logs, micro_batch_pairs=micro_batch_pairs)
    several = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes))
    fewer = ("--data.micro-batch-pairs", str(micro_batch_pairs)) if micro_batch_pairs else ()
    command = (sys.executable, *(several if num_processes > 1 else ()), *one.planned.arguments, *fewer)
    exit_status = _call(command, logs / "here.log")
    for benchmark, root in one.point.also_on.items():
        if exit_status == 0:
            run_folder = str(one.planned.folder.path)
            words = ("evaluate", run_folder, "--on", benchmark, "--root", root)
            exit_status = _call((sys.executable, "-m", "tbps.command", *words), logs / "here.log")
    return exit_status


def _call(command: Sequence[str], log: object) -> int:
    with open(str(log), "ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()  # the terminal has told it as well: it saves what it has
            raise
