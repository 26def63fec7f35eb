"""Workers of a loader under the signals of a job manager, and when they or their parent are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from torch.utils.data import Dataset

from tbps.data import worker_batches
from tbps.data.worker_batches import PREFETCH_BATCHES, load
from tbps.data.worker_pool import worker_pool
from tbps.data.worker_processes import STOP_SIGNALS, WorkerContext, WorkerLost, put_off, stops_wait
from tbps.training.stop_signals import StoppedBySignal, StopSignals

WORKERS = 2
NUM_BATCHES = 4 * WORKERS * PREFETCH_BATCHES


class Numbers(Dataset[int]):
    """Index by index, a little slower than they are taken: workers are always at work."""

    def __getitem__(self, index: int) -> int:
        time.sleep(0.005)
        return index


def _workers() -> list[int]:
    found = [child.pid for child in multiprocessing.active_children() if child.pid]
    assert len(found) == WORKERS
    return found


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_workers_leave_a_stop_to_their_parent(number: signal.Signals) -> None:
    batches = load(Numbers(), range(NUM_BATCHES), workers=WORKERS)
    loaded = [next(batches)]
    for pid in _workers():
        os.kill(pid, number)
    assert loaded + list(batches) == list(range(NUM_BATCHES))


def test_a_killed_worker_is_told_where_its_batch_is_waited_for_and_nowhere_else() -> None:
    batches = load(Numbers(), range(NUM_BATCHES), workers=WORKERS)
    next(batches)
    victim = _workers()[0]
    os.kill(victim, signal.SIGKILL)
    time.sleep(0.1)  # a save, say: DataLoader's own handler would raise in it
    with pytest.raises(WorkerLost, match=rf"a batch is lost: worker process {victim} was killed by SIGKILL; "):
        list(batches)


def test_an_error_of_a_data_set_is_not_taken_for_a_lost_worker() -> None:
    class Broken(Dataset[int]):
        def __getitem__(self, index: int) -> int:
            raise RuntimeError("decoder")

    with pytest.raises(RuntimeError, match="decoder"):
        list(load(Broken(), range(4), workers=WORKERS))


def test_a_worker_that_does_not_leave_can_be_ended() -> None:
    process = WorkerContext().Process(target=time.sleep, args=(1000,), daemon=True)
    process.start()
    process.terminate()
    process.join(10)
    assert process.exitcode == -signal.SIGKILL


def _look_on(event: Any) -> None:
    while not event.is_set():
        pass


def test_what_ends_a_loader_can_be_set_though_workers_were_killed_looking_at_it() -> None:
    """With multiprocessing's own event, some worker keeps its lock, and whoever ends the loader hangs."""
    context = WorkerContext()
    event = context.Event()
    for _ in range(20):
        process = context.Process(target=_look_on, args=(event,))
        process.start()
        time.sleep(0.01)
        process.kill()
        process.join()
    ending = threading.Thread(target=event.set, daemon=True)
    ending.start()
    ending.join(5)
    assert not ending.is_alive() and event.is_set()


@pytest.mark.parametrize("taken", [NUM_BATCHES, 3], ids=["to its end", "left early"])
def test_a_stop_does_not_raise_in_the_midst_of_a_loader(taken: int) -> None:
    """It would leave a lock held, of a queue say, and the end of the process would wait for that for ever."""
    outside, inside = 0, set[str]()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal outside
        if put_off(number):
            return
        outside += 1
        while frame is not None:
            if "/multiprocessing/" in frame.f_code.co_filename or "/torch/utils/data/" in frame.f_code.co_filename:
                inside.add(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            frame = frame.f_back

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    try:
        batches = load(Numbers(), range(NUM_BATCHES), workers=WORKERS)
        for _ in range(taken):
            next(batches)
        batches.close()  # type: ignore[attr-defined]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert outside > 0 and not inside


def test_a_stop_that_was_put_off_raises_at_the_end_of_the_block() -> None:
    reached = []
    with StopSignals() as signals, pytest.raises(StoppedBySignal), signals.at_once():
        with stops_wait():
            with stops_wait():
                os.kill(os.getpid(), signal.SIGTERM)
            reached.append("inside")
        reached.append("outside")
    assert reached == ["inside"]


def test_a_pool_is_not_interrupted_while_it_takes_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(pool: ProcessPoolExecutor, call: Callable[..., int], argument: int) -> Future[int]:
        os.kill(os.getpid(), signal.SIGTERM)
        taken.append(argument)
        return submit_as_before(pool, call, argument)

    taken: list[int] = []
    submit_as_before = ProcessPoolExecutor.submit
    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    with StopSignals() as signals, pytest.raises(StoppedBySignal), signals.at_once(), worker_pool(WORKERS) as pool:
        pool.submit(abs, 1)
        taken.append(2)
    assert taken == [1]


class Events(Dataset[str]):
    """The type of the event that a worker of DataLoader looks at, a local variable of its loop."""

    def __getitem__(self, index: int) -> str:
        frame = sys._getframe()
        while "done_event" not in frame.f_locals:
            assert frame.f_back is not None
            frame = frame.f_back
        return type(frame.f_locals["done_event"]).__name__


def test_loaders_end_by_such_a_flag() -> None:
    assert set(load(Events(), range(4), workers=WORKERS)) == {type(WorkerContext().Event()).__name__}


def test_workers_die_with_their_parent() -> None:
    script = (
        "import time\nfrom tbps.data.worker_processes import WorkerContext\n"
        "process = WorkerContext().Process(target=time.sleep, args=(1000,))\n"
        "process.start()\nprint(process.pid, flush=True)\ntime.sleep(1000)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = Path(f"/proc/{int(parent.stdout.readline())}/stat")
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 2
    while worker.exists() and worker.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_batch_that_does_not_come_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stopped worker stands for one that hangs on its disk."""
    monkeypatch.setattr(worker_batches, "POLL_S", 0.2)
    monkeypatch.setattr(worker_batches, "FIRST_WORD_S", 0.3)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)  # how long it waits for their farewell
    others = set(multiprocessing.active_children())
    batches = load(Numbers(), range(100), workers=WORKERS, patience_s=1.0)
    assert next(batches) == 0
    workers = set(multiprocessing.active_children()) - others
    for process in workers:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(WorkerLost, match=r"^no batch came for 1 s: a disk or server does not answer, or loading is too"):
        list(batches)
    assert len(workers) == WORKERS and not any(process.is_alive() for process in workers)
    assert "waiting for a batch for 0 s: a disk or server does not answer, or is slow" in caplog.text
    assert list(load(Numbers(), range(8), workers=WORKERS, patience_s=0.0)) == list(range(8)), "slow, but not so slow"
