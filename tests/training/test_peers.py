"""Real processes that lose each other: killed, stopped, failed."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rank_processes import disturbed, rank_processes
from ready_python import Ready, fork_of_imports
from small_process import log_of, wait_for_log

from tbps.config.loop import Loop
from tbps.training.distributed import start_processes
from tbps.training.peers import Peers
from tbps.training.stop_signals import LOST_EXIT

SCRIPT = Path(__file__).with_name("small_process.py")
TIMEOUT_S = 6.0


@contextmanager
def _started(runs: Path, *, nan_step: int = -1, **changes: Any) -> Iterator[list[Ready]]:
    """The processes of the small run."""
    with rank_processes(runs, SCRIPT, json.dumps(changes), json.dumps({"nan_step": nan_step})) as processes:
        yield processes


def _assert_told(runs: Path, survivor: Ready, lost: Ready, rank: int, *words: str) -> None:
    assert survivor.returncode == LOST_EXIT, log_of(runs)
    name = f"rank {rank} (process {lost.pid} on {platform.node()})"
    for part in (name, *words, "the same command goes on from the last checkpoint"):
        assert part in log_of(runs), log_of(runs)
    assert name in (runs / "small" / "test" / "lost.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_the_other_within_ten_seconds_and_is_named(tmp_path: Path, lost: int) -> None:
    runs = tmp_path / "runs"
    with _started(runs, steps=100_000, save_steps=0, every_epochs=0.0) as processes:
        wait_for_log(runs, "step 20/100000")
        processes[lost].kill()
        killed = time.monotonic()
        processes[1 - lost].wait(10)
        assert time.monotonic() - killed < 10
        _assert_told(runs, processes[1 - lost], processes[lost], lost, "was lost: it ended without a word")


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_hung_process_ends_the_other_after_the_timeout_and_is_named(tmp_path: Path, lost: int) -> None:
    runs = tmp_path / "runs"
    with _started(runs, steps=100_000, save_steps=0, every_epochs=0.0, timeout_s=TIMEOUT_S) as processes:
        wait_for_log(runs, "step 20/100000")
        processes[lost].send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        processes[1 - lost].wait(TIMEOUT_S + 5)
        assert time.monotonic() - stopped > TIMEOUT_S - 2
        _assert_told(runs, processes[1 - lost], processes[lost], lost, "has not been heard of for 6 s")


@pytest.mark.slow
def test_a_main_thread_that_hangs_behind_a_living_watch_ends_all_after_the_timeout_and_is_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    changes = {"steps": 100_000, "save_steps": 0, "every_epochs": 0.0, "timeout_s": TIMEOUT_S}
    with disturbed(runs, ranks=[1], step={"hang": 21}, **changes) as processes:
        wait_for_log(runs, "step 20/100000")
        hung = time.monotonic()
        assert [process.wait(TIMEOUT_S + 5) for process in processes] == [LOST_EXIT, LOST_EXIT], log_of(runs)
        assert time.monotonic() - hung > TIMEOUT_S - 2
        name = f"rank 1 (process {processes[1].pid} on {platform.node()})"
    assert f"{name} got nowhere for 6 s in the forward pass of step 21: it hangs" in log_of(runs)
    assert "rank 0" not in (runs / "small" / "test" / "lost.txt").read_text()


@pytest.mark.slow
def test_a_step_and_a_batch_that_take_longer_than_the_timeout_are_no_hang(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    changes = {"steps": 30, "save_steps": 0, "every_epochs": 0.0, "timeout_s": TIMEOUT_S}
    with disturbed(runs, ranks=[1], step={"work": 10, "late": 20}, **changes) as processes:
        assert [process.wait(120) for process in processes] == [0, 0], log_of(runs)


STOPPED = 600
"""Steps of a run that is stopped behind its twentieth."""


def _stop_everybody(processes: list[Ready], runs: Path, *, stop_s: float) -> list[int]:
    """As a suspended job; the exit statuses."""
    wait_for_log(runs, f"step 20/{STOPPED}")
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    assert f"step {STOPPED}/{STOPPED}" not in log_of(runs), "it had ended before it was stopped"
    time.sleep(stop_s)
    for process in processes:
        process.send_signal(signal.SIGCONT)
    return [process.wait(120) for process in processes]


@pytest.mark.slow
def test_everybody_stopped_and_continued_goes_on(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with _started(runs, steps=STOPPED, save_steps=0, every_epochs=0.0, timeout_s=TIMEOUT_S) as processes:
        assert _stop_everybody(processes, runs, stop_s=TIMEOUT_S + 3) == [0, 0], log_of(runs)


@pytest.mark.slow
def test_everybody_stopped_for_longer_than_collectives_wait_goes_on_or_is_started_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with _started(runs, steps=STOPPED, save_steps=0, every_epochs=0.0, timeout_s=TIMEOUT_S) as processes:
        statuses = _stop_everybody(processes, runs, stop_s=2 * TIMEOUT_S + 3)
        # Whether a collective was under way when they were stopped is chance.
        assert statuses in ([0, 0], [LOST_EXIT, LOST_EXIT]), log_of(runs)
        told = re.search(r"everybody was stopped for \d\d s, longer than a collective waits", log_of(runs))
        assert statuses == [0, 0] or told, log_of(runs)


@pytest.mark.slow
def test_a_failure_of_one_process_is_told_by_the_other(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with _started(runs, steps=100_000, save_steps=100, every_epochs=0.0) as processes:
        wait_for_log(runs, "step 20/100000")
        (runs / "small" / "test" / "checkpoints").rename(runs / "gone")
        (runs / "small" / "test" / "checkpoints").write_text("no folder")
        assert [process.wait(60) for process in processes] == [1, 1], log_of(runs)
    assert "was lost" not in log_of(runs)


def _with_a_forked_child(rank: int, port: int, folder: str) -> None:
    """Watch the other; the second process has a child, which outlives it by a minute."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", **{name: str(value) for name, value in place.items()}})
    start_processes(Loop())
    with Peers(timeout_s=60, note=Path(folder) / "lost.txt"):
        if rank == 1:
            child = os.fork()
            if child:
                (Path(folder) / "child").write_text(str(child))
        time.sleep(60)


def test_a_child_does_not_keep_the_connections_of_a_lost_process_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = [fork_of_imports(_with_a_forked_child, rank, port, str(tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "child").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        processes[1].kill()
        processes[0].join(4)
        assert processes[0].exitcode == LOST_EXIT
        assert "was lost: it ended without a word" in (tmp_path / "lost.txt").read_text()
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
        for process in processes:
            process.kill()
            process.join()
