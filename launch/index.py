"""What every task of slurm/index.sh runs: `srun python -m launch.index FOLDER INDEX --run RUN`, a share of `tbps index`.

One task per GPU; they share the pictures, and the first one writes. Exit statuses are those of `launch.rank`: a job that was
stopped, or has lost a task, is put back into the queue by `launch.requeue`, and goes on behind what the index holds.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from launch.rank import rank_environment, settle, status_of
from tbps.command import main as tbps
from tbps.training.process_end import end_process
from tbps.training.stop_signals import StopSignals


def main(arguments: list[str] | None = None) -> NoReturn:
    """The command line."""
    end_process(index_task(sys.argv[1:] if arguments is None else arguments))


def index_task(arguments: list[str]) -> int:
    """Be one of the processes of `tbps index <arguments>`, in this process; the exit status. The main thread calls it."""

    def work() -> int:
        os.environ.update(rank_environment(os.environ))
        return tbps(["index", *arguments])

    with StopSignals() as signals:
        status = status_of(work, signals, program="launch.index")
    settle(status, None)
    return status


if __name__ == "__main__":
    main()
