"""Two processes on gloo against one: the same losses, weights, momentum encoder and queue."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ready_python
import torch
from rank_processes import disturbed
from small_method import small_parts, small_run
from small_process import final_state, log_of, metrics, wait_for_log

from tbps.runs import checkpoint
from tbps.training.distributed import _check_launch
from tbps.training.loop import train

STEPS = 12
LARGE_EPS = 1e-2
"""See test_loop: so that rounding stays rounding."""
SCRIPT = Path(__file__).with_name("small_process.py")


def _command(runs: Path, changes: dict[str, Any], parts: dict[str, Any]) -> list[str]:
    runs.mkdir(exist_ok=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [*torchrun, str(SCRIPT), str(runs), json.dumps(changes), json.dumps(parts)]


def _run(runs: Path, changes: dict[str, Any], parts: dict[str, Any], **variables: str) -> int:
    """To the end; the exit status."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
    done = ready_python.run(_command(runs, changes, parts), folder=runs, variables=environment, timeout_s=240)
    logging.getLogger().info("%s", done.stdout + done.stderr)
    return done.returncode


def _launch(runs: Path, changes: dict[str, Any], parts: dict[str, Any]) -> subprocess.Popen[str]:
    """By torchrun itself."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = _command(runs, changes, parts)
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(process: subprocess.Popen[str]) -> int:
    output, _ = process.communicate(timeout=120)
    logging.getLogger().info("%s", output)
    return process.returncode


def _weights(runs: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_tensors(runs / f"small/test/checkpoints/step-{STEPS:08d}/model.safetensors")


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    changes = {"lr": 1e-3, "eps": LARGE_EPS, "steps": STEPS}
    status = _run(tmp_path / "two", changes, {"dropout": 0.1})
    run = small_run(tmp_path / "one", lr=1e-3, eps=LARGE_EPS, steps=STEPS)
    train(run, small_parts(run, dropout=0.1))
    assert status == 0, log_of(tmp_path / "two")
    one, two = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    assert torch.equal(one["queue.identity_K"], two["queue.identity_K"])
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-6)  # of the 1e-2 that a weight moves
    for ours, theirs in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        numbers = {key: value for key, value in ours.items() if key != "split"}
        assert numbers == pytest.approx({key: value for key, value in theirs.items() if key != "split"}, rel=1e-5)
    _assert_largest_memory(tmp_path / "two")


def _assert_largest_memory(runs: Path) -> None:
    """The log's memory is that of the process that has used most, not a sum or a mean."""
    told = re.search(r"largest memory of each process: (.*)", log_of(runs))
    lines = [json.loads(line) for line in (runs / "small/test/metrics.jsonl").read_text().splitlines()]
    logged_mib = [1024 * line["memory_gib"] for line in lines if "memory_gib" in line]
    assert told is not None and len(logged_mib) == STEPS // 2 and sorted(logged_mib) == logged_mib
    peaks_mib = [float(peak) for peak in re.findall(r"(\d+) MiB", told[1])]
    assert len(peaks_mib) == 2 and 0.8 * max(peaks_mib) < logged_mib[-1] <= max(peaks_mib) + 1


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_weights_momentum_encoder_and_queue_are_the_same_on_all_ranks(tmp_path: Path, stage: int) -> None:
    zero = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)} if stage else {}
    status = _run(tmp_path / "two", {"steps": STEPS}, {}, **zero)
    assert status == 0, log_of(tmp_path / "two")
    first, second = ((tmp_path / "two" / f"rank-{rank}.sha256").read_text() for rank in (0, 1))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_coupled_decay_and_rules_are_the_same_under_zero(tmp_path: Path, stage: int) -> None:
    zero = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    status = _run(tmp_path / "two", {"lr": 1e-3, "eps": LARGE_EPS, "steps": STEPS, "kind": "adam"}, {}, **zero)
    run = small_run(tmp_path / "one", lr=1e-3, eps=LARGE_EPS, steps=STEPS, kind="adam")
    train(run, small_parts(run))
    assert status == 0, log_of(tmp_path / "two")
    one, two = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)  # of the 1e-2 that a weight moves
    assert [line.get("lr/prd_head") for line in metrics(tmp_path / "two")] == [
        line.get("lr/prd_head") for line in metrics(tmp_path / "one")
    ]


@pytest.mark.slow
def test_two_processes_that_accumulate_do_what_one_does(tmp_path: Path) -> None:
    changes = {"lr": 1e-3, "eps": LARGE_EPS, "steps": STEPS, "batch_pairs": 16}
    status = _run(tmp_path / "two", {**changes, "micro_batch_pairs": 4}, {"dropout": 0.1})
    run = small_run(tmp_path / "one", lr=1e-3, eps=LARGE_EPS, steps=STEPS, batch_pairs=16)
    train(run, small_parts(run, dropout=0.1))
    assert status == 0, log_of(tmp_path / "two")
    one, two = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_one_step_and_the_end_is_the_same(tmp_path: Path) -> None:
    changes = {"steps": 200, "save_steps": 50, "every_epochs": 0.0}
    assert _run(tmp_path / "undisturbed", changes, {}) == 0, log_of(tmp_path / "undisturbed")
    runs = tmp_path / "stopped"
    process = _launch(runs, changes, {})
    wait_for_log(runs, "step 20/200")
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGUSR2)
    assert _finish(process) != 0
    text = log_of(runs)
    assert text.count("stopped as asked after step ") == 2, text
    assert len({part.split()[0] for part in text.split("stopped as asked after step ")[1:]}) == 1
    assert _run(runs, changes, {}) == 0, log_of(runs)
    assert final_state(runs, 200) == final_state(tmp_path / "undisturbed", 200)
    assert metrics(runs) == metrics(tmp_path / "undisturbed")


@pytest.mark.slow
def test_an_error_of_the_first_process_reaches_all(tmp_path: Path) -> None:
    status = _run(tmp_path / "runs", {"steps": 4}, {"nan_step": 2})
    assert status != 0
    assert log_of(tmp_path / "runs").count("loss itc is nan in step 3") == 2
    # another config is found by the first process only, and told by both
    status = _run(tmp_path / "runs", {"steps": 4, "lr": 0.05}, {})
    assert status != 0
    assert log_of(tmp_path / "runs").count("was started with another config") == 2
    evaluation = tmp_path / "runs/small/test/evaluations/val-00000000.json"
    evaluation.parent.mkdir(exist_ok=True)
    evaluation.touch()  # a full disk left it empty, and the first save looks for the best one
    status = _run(tmp_path / "runs", {"steps": 4}, {})
    assert status != 0
    told = f"ValueError: {evaluation} cannot be read (it is empty); remove it, and the same command evaluates again"
    assert log_of(tmp_path / "runs").count(told) == 2, log_of(tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2])
def test_a_loss_that_is_not_finite_though_its_gradient_is_changes_no_weight(tmp_path: Path, zero: int) -> None:
    runs = tmp_path / "runs"
    with disturbed(runs, ranks=[1], step={"nan": 5}, zero=zero, steps=8, save_steps=4, every_epochs=0.0) as processes:
        assert [process.wait(120) for process in processes] == [1, 1], log_of(runs)
    assert log_of(runs).count("loss prd is nan in step 5") == 2
    assert log_of(runs).count("this update was not applied") == 2
    saved = checkpoint.read_tensors(runs / "small/test/checkpoints/step-00000004/model.safetensors")
    for rank in (0, 1):
        for name, tensor in checkpoint.read_tensors(runs / f"rank-{rank}.safetensors").items():
            assert torch.equal(tensor.view(-1), saved[f"online.{name}"].view(-1)), name


def test_a_launcher_that_started_too_few_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    _check_launch()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    _check_launch()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ValueError, match=r'several processes and started only one.*"torchrun --nproc_per_node N \.\.\."'):
        _check_launch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    _check_launch()


@pytest.mark.slow
def test_accelerate_on_the_cpu_says_that_it_started_one_of_two(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    words = [*launch, str(SCRIPT), str(tmp_path), "{}", "{}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path)}
    done = ready_python.run(words, folder=tmp_path, variables=environment, timeout_s=120)
    assert done.returncode != 0
    assert "accelerate launch was asked for several processes and started only one" in log_of(tmp_path), done.stderr
