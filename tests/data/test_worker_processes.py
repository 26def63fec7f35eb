"""Workers of a loader under the signals of a job manager, and when they or their parent are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from tbps.data.loader import PREFETCH_BATCHES, _load
from tbps.data.worker_processes import STOP_SIGNALS, WorkerContext, WorkerLost

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
    batches = _load(Numbers(), range(NUM_BATCHES), workers=WORKERS)
    loaded = [next(batches)]
    for pid in _workers():
        os.kill(pid, number)
    assert loaded + list(batches) == list(range(NUM_BATCHES))


def test_a_killed_worker_is_told_where_its_batch_is_waited_for_and_nowhere_else() -> None:
    batches = _load(Numbers(), range(NUM_BATCHES), workers=WORKERS)
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
        list(_load(Broken(), range(4), workers=WORKERS))


def test_a_worker_that_does_not_leave_can_be_ended() -> None:
    process = WorkerContext().Process(target=time.sleep, args=(1000,), daemon=True)
    process.start()
    process.terminate()
    process.join(10)
    assert process.exitcode == -signal.SIGKILL


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
