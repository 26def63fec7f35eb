"""Real processes that lose each other: killed, stopped, failed."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_process import log_of, wait_for_log

from tbps.training.stop_signals import LOST_EXIT

SCRIPT = Path(__file__).with_name("small_process.py")
TIMEOUT_S = 6.0
PROCESSES = 2


@contextmanager
def _started(runs: Path, *, nan_step: int = -1, **changes: Any) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes of a run, started as Slurm does: nobody watches them but they themselves."""
    runs.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes = []
    for rank in range(PROCESSES):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        words = [sys.executable, str(SCRIPT), str(runs), json.dumps(changes), json.dumps({"nan_step": nan_step})]
        environment = {**os.environ, **quiet, **{name: str(value) for name, value in place.items()}}
        processes.append(subprocess.Popen(words, env=environment, stderr=subprocess.PIPE))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _assert_told(
    runs: Path, survivor: subprocess.Popen[bytes], lost: subprocess.Popen[bytes], rank: int, *words: str
) -> None:
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


def _stop_everybody(processes: list[subprocess.Popen[bytes]], *, stop_s: float) -> list[int]:
    """As a suspended job; the exit statuses."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    time.sleep(stop_s)
    for process in processes:
        process.send_signal(signal.SIGCONT)
    return [process.wait(120) for process in processes]


@pytest.mark.slow
def test_everybody_stopped_and_continued_goes_on(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with _started(runs, steps=600, save_steps=0, every_epochs=0.0, timeout_s=TIMEOUT_S) as processes:
        wait_for_log(runs, "step 20/600")
        assert _stop_everybody(processes, stop_s=TIMEOUT_S + 3) == [0, 0], log_of(runs)


@pytest.mark.slow
def test_everybody_stopped_for_longer_than_collectives_wait_goes_on_or_is_started_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with _started(runs, steps=600, save_steps=0, every_epochs=0.0, timeout_s=TIMEOUT_S) as processes:
        wait_for_log(runs, "step 20/600")
        statuses = _stop_everybody(processes, stop_s=2 * TIMEOUT_S + 3)
        # Whether a collective was under way when they were stopped is chance.
        assert statuses in ([0, 0], [LOST_EXIT, LOST_EXIT]), log_of(runs)
        told = re.search(r"everybody was stopped for \d\d s, longer than a collective waits", log_of(runs))
        assert statuses == [0, 0] or told, log_of(runs)


@pytest.mark.slow
def test_a_failure_of_one_process_is_told_by_the_other(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with _started(runs, steps=100_000, save_steps=1_000, every_epochs=0.0) as processes:
        wait_for_log(runs, "step 20/100000")
        (runs / "small" / "test" / "checkpoints").rename(runs / "gone")
        (runs / "small" / "test" / "checkpoints").write_text("no folder")
        assert [process.wait(60) for process in processes] == [1, 1], log_of(runs)
    assert "was lost" not in log_of(runs)
