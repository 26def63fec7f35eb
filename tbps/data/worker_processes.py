"""Processes that load, decode or draw for another one: they leave stopping to it, and do not outlive it.

A job manager or a terminal signals every process of a job. A worker that died of it would take its training process along
before anything is saved. So workers never hear of a stop; who started them ends them when it stops itself.
"""

from __future__ import annotations

import ctypes
import errno
import multiprocessing.queues
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from multiprocessing.process import BaseProcess

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
"""What asks a run to stop: Ctrl-C, SIGTERM, and SIGUSR2 ahead of a time limit."""

_PR_SET_PDEATHSIG = 1
_LAST_BREATH_S = 2.0


_blocks = 0
_put_off: signal.Signals | None = None


@contextmanager
def stops_wait() -> Iterator[None]:
    """While entered, a stop that would raise at once is put off to the end of the block.

    An exception in the midst of DataLoader or of a pool would leave a lock of theirs held, and their end would hang.
    """
    global _blocks, _put_off
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread
        return
    _blocks += 1
    try:
        yield
    finally:
        _blocks -= 1
        if not _blocks and (number := _put_off) is not None:
            _put_off = None
            signal.raise_signal(number)


def put_off(number: int) -> bool:
    """For a handler of signal `number` that is about to raise: whether `stops_wait` will have it called again later."""
    global _put_off
    if not _blocks:
        return False
    _put_off = signal.Signals(number)
    return True


class WorkerLost(ChildProcessError):
    """A worker was killed or crashed: an accident of the machine, no error that would come again."""


def no_room() -> ValueError:
    """What to say where /dev/shm is full."""
    folder = os.statvfs("/dev/shm")
    size_mib = folder.f_frsize * folder.f_blocks / 2**20
    return ValueError(
        f"/dev/shm, through which loader workers hand over batches, is full (it has {size_mib:.1f} MiB): make it larger"
        " (Docker: --shm-size), or lower --data.workers or --data.micro-batch-pairs"
    )


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
        die_with_parent(self._parent_pid)  # type: ignore[attr-defined]
        # A batch that cannot be sent would be dropped, and its receiver wait for ever.
        multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_unsent)  # type: ignore[attr-defined]
        super().run()


class _Flag:
    """multiprocessing's Event without its lock, which a worker that is killed with it in hand keeps for ever.

    DataLoader's workers look at the event before each batch, and its end sets it: it would hang there.
    """

    def __init__(self, context: ForkContext) -> None:
        self._byte = context.RawValue("b", 0)

    def set(self) -> None:
        """Seen by all processes."""
        self._byte.value = 1

    def is_set(self) -> bool:
        """Whether any process has set it."""
        return bool(self._byte.value)


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

    def Event(self) -> _Flag:  # type: ignore[override]
        """A flag that can be set though a worker was killed."""
        return _Flag(self)

    def has_no_room(self) -> bool:
        """Whether a worker has ended because /dev/shm is full. Call after an error: one that is ending is waited for."""
        deadline = time.monotonic() + _LAST_BREATH_S
        while not any(process.exitcode for process in self._started) and time.monotonic() < deadline:
            time.sleep(0.05)
        return any(process.exitcode in (errno.ENOSPC, -signal.SIGBUS) for process in self._started)

    def lost(self) -> str:
        """Which worker has ended badly, and how, in words; empty where none has."""
        for process in self._started:
            if status := process.exitcode:
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                return f"worker process {process.pid} {how}"
        return ""


def _end_unsent(error: Exception, _: object) -> None:
    """End a worker whose batch could not be sent; the exit status tells the receiver whether there was no room."""
    if os.strerror(errno.ENOSPC) in str(error):  # a RuntimeError of torch
        os._exit(errno.ENOSPC)
    traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(1)


def die_with_parent(parent: int) -> None:
    """Where the parent is killed, nobody else would end this process for seconds, and it holds memory and sockets."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was quicker
        os.kill(os.getpid(), signal.SIGKILL)
