"""Processes that share out pieces of work, for the commands that read or write whole data sets.

They leave stopping to their parent, and none outlives it: a call that fails, is stopped or is killed leaves no process that
goes on reading or writing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Literal

from tbps.data.worker_processes import STOP_SIGNALS, WorkerContext, die_with_parent, stops_wait


class _Pool(ProcessPoolExecutor):
    """One that a stop leaves whole, so that it can be ended.

    What is submitted cannot be cancelled: where its processes have died, the pool's thread tells every future that waits,
    and would print a traceback of one that was cancelled meanwhile, as `map` does at an error.
    """

    def submit(self, *call: Any, **arguments: Any) -> Future[Any]:
        with stops_wait():
            future = super().submit(*call, **arguments)
        future.cancel = _refuse  # type: ignore[method-assign]
        return future


def _refuse() -> bool:
    return False


@contextmanager
def worker_pool(workers: int, *, start: Literal["fork", "spawn"] = "fork") -> Iterator[ProcessPoolExecutor]:
    """A pool. Left by an exception, it ends its processes in the midst of their work.

    Call it in the main thread: processes end with the thread that has started them. ValueError: a worker was killed.
    """
    others = set(multiprocessing.active_children())
    context = WorkerContext() if start == "fork" else multiprocessing.get_context(start)
    pool = _Pool(workers, mp_context=context, initializer=_serve, initargs=(os.getpid(),))
    try:
        yield pool
        pool.shutdown()
    except BaseException as error:
        with stops_wait():
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
                process.join()
            # Waits for the pool's thread alone: left to itself, it closes its pipe while the interpreter's end writes to it.
            pool.shutdown()
        if isinstance(error, BrokenProcessPool):
            raise ValueError(
                "a worker process ended without a word, as one does that is killed for want of memory;"
                " give fewer --workers and run the same command again"
            ) from error
        raise


def _serve(parent: int) -> None:
    """A job manager and a terminal signal every process; a worker that died of it would look like an accident."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(parent)
