"""Tasks of srun without a Slurm: `launch.rank` in processes of their own, in the environment that Slurm gives its tasks.

What Slurm is asked meanwhile, a program called scontrol answers.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ready_python import fork_of_imports

_SCONTROL = """#!/bin/sh
echo "$*" >> '{asked}'
case "$2" in
  hostnames) echo localhost ;;
  node) echo NodeName=localhost NodeAddr=127.0.0.1 ;;
  job) echo JobId=1 JobState=RUNNING Requeue=1 EndTime=Unknown ;;
esac
"""


class Tasks:
    """One start of a job: its ranks, with one log."""

    def __init__(self, folder: Path, arguments: list[str], *, accelerate: str, number: int = 1, **changes: str) -> None:
        """folder: for the log and for what scontrol was asked; changes: to the environment."""
        self.log, self.asked = folder / "log", folder / "asked"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scontrol").write_text(_SCONTROL.format(asked=self.asked))
        (folder / "scontrol").chmod(0o755)
        job = str(random.randrange(1, 10**6))
        self.processes: list[ForkServerProcess] = []
        for rank in range(number):
            variables = {
                "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
                "SLURM_JOB_ID": job,
                "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": str(rank),
                "SLURM_NODEID": "0",
                "SLURM_STEP_NUM_TASKS": str(number),
                "SLURM_STEP_TASKS_PER_NODE": str(number),
                "SLURM_STEP_NODELIST": "localhost",
                "OMP_NUM_THREADS": "1",
                "ACCELERATE_USE_CPU": "true",
                **changes,
            }
            process = fork_of_imports(_run, variables, arguments, accelerate, str(self.log))
            process.start()
            self.processes.append(process)

    def wait_for_log(self, text: str) -> None:
        """Until a rank has logged it."""
        deadline = time.monotonic() + 120
        while text not in self.told():
            assert time.monotonic() < deadline, f"{text!r} was not logged:\n{self.told()}"
            assert any(process.is_alive() for process in self.processes), self.told()
            time.sleep(0.01)

    def told(self) -> str:
        """All that was written."""
        return self.log.read_text() if self.log.exists() else ""

    def signal(self, number: int) -> None:
        """To every rank, as from Slurm."""
        for process in self.processes:
            assert process.pid is not None
            os.kill(process.pid, number)

    def statuses(self) -> list[int | None]:
        """Wait for the ends; exit statuses by rank."""
        for process in self.processes:
            process.join(120)
        return [process.exitcode for process in self.processes]


def _run(variables: dict[str, str], arguments: list[str], accelerate: str, log: str) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    multiprocessing.set_start_method("fork", force=True)  # as in a shell, for the loader workers
    os.environ.update(variables)
    from launch.rank import run_task

    sys.exit(run_task(arguments, accelerate))
