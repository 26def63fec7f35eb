"""Real processes, killed and started again: the end is the same to the last bit."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_method import WORKERS
from small_process import final_state, finish, loader_workers, log_of, metrics, start, wait_for_log, wait_for_start

from tbps.runs.checkpoint import read_tensors
from tbps.training.stop_signals import TERMINATE_EXIT

STEPS = 24
LONG: dict[str, Any] = {"steps": STEPS, "save_steps": 2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nobody killed, and how long it trained."""
    runs = tmp_path_factory.mktemp("undisturbed")
    process = start(runs, **LONG)
    wait_for_start(runs, times=1)
    began = time.monotonic()
    process.join(60)
    assert process.exitcode == 0, log_of(runs)
    return runs, time.monotonic() - began


def _assert_same(runs: Path, undisturbed: Path) -> None:
    assert final_state(runs, STEPS) == final_state(undisturbed, STEPS)
    assert metrics(runs) == metrics(undisturbed)


def _kill_at_random_moments(runs: Path, duration_s: float, *, kills: int, seed: int) -> None:
    """Every other kill waits for a checkpoint: on a machine that has become busier none might be reached in the time."""
    moments, checkpoints = random.Random(seed), runs / "small" / "test" / "checkpoints"
    for number in range(kills):
        process = start(runs, **LONG)
        wait_for_start(runs, times=number + 1)
        saved = set(checkpoints.glob("step-*"))
        while number % 2 and process.is_alive() and not set(checkpoints.glob("step-*")) - saved:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, duration_s / (8 if number % 2 else 2)))
        process.kill()
        process.join()
    assert finish(runs, **LONG) == 0, log_of(runs)
    assert "steps done)" in log_of(runs), "every kill came before the first checkpoint"


def test_killed_three_times_ends_the_same(tmp_path: Path, undisturbed: tuple[Path, float]) -> None:
    _kill_at_random_moments(tmp_path / "runs", undisturbed[1], kills=3, seed=1)
    _assert_same(tmp_path / "runs", undisturbed[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_killed_ten_times_ends_the_same(tmp_path: Path, undisturbed: tuple[Path, float], seed: int) -> None:
    _kill_at_random_moments(tmp_path / "runs", undisturbed[1], kills=10, seed=seed)
    _assert_same(tmp_path / "runs", undisturbed[0])


def test_killed_while_saving_ends_the_same(tmp_path: Path, undisturbed: tuple[Path, float]) -> None:
    runs = tmp_path / "runs"
    checkpoints = runs / "small" / "test" / "checkpoints"
    caught = 0
    for _ in range(3):
        process = start(runs, **LONG)
        seen = len(list(checkpoints.glob("step-*"))) if checkpoints.exists() else 0
        while process.is_alive() and not (
            list(checkpoints.glob(".tmp-*")) and len(list(checkpoints.glob("step-*"))) >= seen
        ):
            pass
        process.kill()
        process.join()
        caught += bool(list(checkpoints.glob(".tmp-*")))
    assert caught, "no kill fell into a save"
    assert finish(runs, **LONG) == 0, log_of(runs)
    assert not list(checkpoints.glob(".tmp-*"))
    _assert_same(runs, undisturbed[0])


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR2, 143, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_saves_says_how_to_go_on_and_ends_the_same(
    tmp_path: Path, undisturbed: tuple[Path, float], number: signal.Signals, status: int
) -> None:
    runs = tmp_path / "runs"
    process = start(runs, **LONG)
    wait_for_log(runs, "step 6/24")
    assert process.pid is not None
    workers = loader_workers(process)
    assert len(workers) == WORKERS
    for pid in (*workers, process.pid):  # as Slurm and a terminal do
        os.kill(pid, number)
    process.join(30)
    assert process.exitcode == status, log_of(runs)
    text = log_of(runs)
    assert "stopped as asked after step " in text and "run the same command again to go on" in text
    step = int(text.partition("stopped as asked after step ")[2].split()[0])
    assert (runs / "small" / "test" / "checkpoints" / f"step-{step:08d}").exists()
    assert finish(runs, **LONG) == 0, log_of(runs)
    assert f"going on from {runs}/small/test/checkpoints/step-{step:08d}" in log_of(runs)
    _assert_same(runs, undisturbed[0])


@pytest.mark.parametrize("stop", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["in a stop", "alone"])
def test_killed_workers_end_a_run_as_asked_or_by_name(tmp_path: Path, stop: bool) -> None:
    runs = tmp_path / "runs"
    process = start(runs, steps=2_000, save_steps=2_000, every_epochs=0.0)
    wait_for_log(runs, "step 6/2000")
    workers = loader_workers(process)
    assert len(workers) == WORKERS and process.pid is not None
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    if stop:
        os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == (TERMINATE_EXIT if stop else 1), log_of(runs)
    told = re.search(r"a batch is lost: worker process (\d+) was killed by SIGKILL; the same command goes on", log_of(runs))
    assert stop or (told is not None and int(told[1]) in workers), log_of(runs)
    assert told is None or f"process {told[1]} was killed" in (runs / "small/test/lost.txt").read_text()


def test_a_stop_during_validation_repeats_the_validation_only(tmp_path: Path, undisturbed: tuple[Path, float]) -> None:
    runs = tmp_path / "runs"
    process = start(runs, slow_evaluation="val", **LONG)
    wait_for_log(runs, "slow evaluation of step 4")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 143
    assert "stopped as asked, val is unfinished: run the same command again to do it anew" in log_of(runs)
    assert finish(runs, **LONG) == 0, log_of(runs)
    assert "step-00000004 (4 steps done)" in log_of(runs)
    _assert_same(runs, undisturbed[0])


def test_killed_in_the_final_test_repeats_the_test_only(tmp_path: Path, undisturbed: tuple[Path, float]) -> None:
    runs = tmp_path / "runs"
    process = start(runs, slow_evaluation="test", **LONG)
    wait_for_log(runs, "slow evaluation of step")
    process.kill()
    process.join()
    lines_before = len(log_of(runs).splitlines())
    assert finish(runs, **LONG) == 0, log_of(runs)
    rest = log_of(runs).splitlines()[lines_before:]
    assert not any(f"/{STEPS}  epoch" in line for line in rest), "a step was trained again"
    _assert_same(runs, undisturbed[0])


def test_bfloat16_trains_float32_weights_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    for runs in (tmp_path / "whole", tmp_path / "stopped", tmp_path / "fp32"):
        precision = "fp32" if runs.name == "fp32" else "bf16"
        if runs.name == "stopped":
            process = start(runs, slow_evaluation="val", precision=precision)
            wait_for_log(runs, "slow evaluation of step 4")
            process.kill()
            process.join()
        assert finish(runs, precision=precision) == 0, log_of(runs)
    assert final_state(tmp_path / "stopped", 12) == final_state(tmp_path / "whole", 12)
    weights = read_tensors(tmp_path / "whole/small/test/checkpoints/step-00000012/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}
    half, full = metrics(tmp_path / "whole")[0], metrics(tmp_path / "fp32")[0]
    assert half["loss"] != full["loss"] and half["loss"] == pytest.approx(full["loss"], rel=0.02)


def test_a_second_copy_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = start(runs, slow_evaluation="val", **LONG)
    wait_for_log(runs, "slow evaluation of step 4")
    assert finish(runs, **LONG) == 1
    assert f"is in use by another process (process {first.pid} on " in log_of(runs)
    first.kill()
    first.join()
