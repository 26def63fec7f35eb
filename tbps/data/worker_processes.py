"""Processes that load, decode or draw for another one: they leave stopping to it, and do not outlive it.

A job manager or a terminal signals every process of a job. A worker that died of it would take its training process along
before anything is saved. So workers never hear of a stop; who started them ends them when it stops itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from multiprocessing.process import BaseProcess

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""What asks a run to stop: Ctrl-C, SIGTERM, and SIGUSR2 ahead of a time limit."""

_PR_SET_PDEATHSIG = 1


class WorkerLost(ChildProcessError):
    """A worker was killed or crashed: an accident of the machine, no error that would come again."""


class _DeafPopen(Popen):
    """Forks with the stop signals blocked: the child inherits that, so there is no moment at which one could kill it."""

    def _launch(self, process_obj: BaseProcess) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            super()._launch(process_obj)  # type: ignore[misc]  # the child ends in there
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def terminate(self) -> None:
        """SIGKILL, as SIGTERM is not heard. DataLoader and pools call this for workers that do not leave by themselves."""
        self.kill()


class _Worker(ForkProcess):
    """A process of `WorkerContext`."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Popen:
        return _DeafPopen(process_obj)

    def run(self) -> None:
        """What the process does."""
        _die_with_parent(self)
        super().run()


class WorkerContext(ForkContext):
    """A context of multiprocessing for DataLoader, Pool and ProcessPoolExecutor. One for each group of workers.

    Start workers in a thread that lives as long as they are needed: Linux ends them with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started: list[BaseProcess] = []

    def Process(self, *args: object, **changes: object) -> ForkProcess:  # type: ignore[override]
        """A process that is watched by `lost`."""
        process = _Worker(*args, **changes)  # type: ignore[arg-type]
        self._started.append(process)
        return process

    def lost(self) -> str:
        """Which worker has ended badly, and how, in words; empty where none has."""
        for process in self._started:
            if status := process.exitcode:
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                return f"worker process {process.pid} {how}"
        return ""


def _die_with_parent(process: BaseProcess) -> None:
    """Where the parent is killed, nobody else would end this process for seconds, and it holds memory and sockets."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != process._parent_pid:  # type: ignore[attr-defined]  # it was quicker
        os.kill(os.getpid(), signal.SIGKILL)
