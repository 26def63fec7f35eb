"""Recipes by their real commands on a GPU: trained, stopped and gone on with, under ZeRO, evaluated with re-ranking."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_world import (
    ADAPTED,
    AS_RECIPES_TRAIN,
    CLIP_AS_RECIPES_TRAIN,
    CLIP_FAMILY,
    REPOSITORY,
    World,
    environment,
    metrics,
)

STEPS = 12
RECIPES = ("mars", "rasa", "aga", "laip", "albef", "aptm", "clip", "irra", "bilma", "bamg")


def words(world: World, runs: Path, recipe: str, *more: str) -> list[str]:
    """A recipe as it is trained: loader workers, dropout, a checkpoint every four steps, all numbers logged."""
    real = CLIP_AS_RECIPES_TRAIN if recipe in (*CLIP_FAMILY, *ADAPTED) else AS_RECIPES_TRAIN
    often = ("--loop.save-steps", "4", "--loop.log-steps", "1", "--evaluation.every-epochs", "0")
    ours = world.overrides(runs, recipe=recipe, max_steps=STEPS)
    return [f"recipes/{recipe}.py", "tiny", *ours, *often, *real, *more]


def start(command: list[str], **changes: str) -> subprocess.Popen[str]:
    """In the repository, on the GPU."""
    around = environment(CUDA_VISIBLE_DEVICES="0", **changes)
    return subprocess.Popen(command, cwd=REPOSITORY, env=around, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(command: list[str], **changes: str) -> str:
    """What a command printed; it must end well."""
    process = start(command, **changes)
    try:
        printed, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


def results(runs: Path, recipe: str) -> dict[str, object]:
    """Of the test split."""
    found: dict[str, object] = json.loads((runs / recipe / "tiny/results/final-cuhk-pedes-test.json").read_text())
    return found


def losses(runs: Path, recipe: str) -> list[float]:
    """Of every step."""
    return [line["loss"] for line in metrics(runs / recipe / "tiny") if "loss" in line]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_is_tested(world: World, tmp_path: Path, recipe: str, precision: str) -> None:
    printed = finish([sys.executable, *words(world, tmp_path, recipe, "--loop.precision", precision)])
    assert len(losses(tmp_path, recipe)) == STEPS
    assert "MiB on the GPU" in printed and "report: " in printed
    found = results(tmp_path, recipe)
    assert found["precision"] == precision and found["device"] != "cpu", found["device"]


@pytest.mark.parametrize("recipe", ["mars", "irra", "bamg"])
def test_stopped_and_gone_on_with_it_ends_the_same(world: World, tmp_path: Path, recipe: str) -> None:
    command = [sys.executable, *words(world, tmp_path / "stopped", recipe)]
    process = start(command)
    checkpoints = tmp_path / "stopped" / recipe / "tiny/checkpoints"
    deadline = time.monotonic() + 120
    while process.poll() is None and not list(checkpoints.glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 143, printed
    finish(command)
    finish([sys.executable, *words(world, tmp_path / "undisturbed", recipe)])
    assert losses(tmp_path / "stopped", recipe) == pytest.approx(losses(tmp_path / "undisturbed", recipe), rel=1e-3)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_on_one_gpu_has_the_losses_of_one_process(world: World, tmp_path: Path, stage: int) -> None:
    pytest.importorskip("deepspeed")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"launch/accelerate/zero{stage}.yaml"]
    port = str(29500 + os.getpid() % 1000 + stage)
    finish([*launch, "--num_processes", "1", "--main_process_port", port, *words(world, tmp_path / "zero", "mars")])
    finish([sys.executable, *words(world, tmp_path / "alone", "mars")])
    assert losses(tmp_path / "zero", "mars") == pytest.approx(losses(tmp_path / "alone", "mars"), rel=1e-4)


@pytest.mark.parametrize("recipe", ["mars", "bamg"])
def test_evaluation_with_re_ranking_is_the_cpus(world: World, tmp_path: Path, recipe: str) -> None:
    finish([sys.executable, *words(world, tmp_path, recipe)])
    on_gpu = results(tmp_path, recipe)["text_to_image"]
    folder = tmp_path / recipe / "tiny"
    process = subprocess.run(
        [sys.executable, "-m", "tbps.command", "evaluate", str(folder)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    trials = sorted((folder / "results").glob("trial-*.json"))
    assert trials, process.stdout
    on_cpu = json.loads(trials[-1].read_text())["text_to_image"]
    for ranking in ("coarse", "reranked"):
        for metric in ("rank_1", "mAP"):
            assert on_gpu[ranking][metric] == pytest.approx(on_cpu[ranking][metric], abs=1.0), (ranking, metric)


@pytest.mark.parametrize("recipe", ["mars", "clip", "aptm"])
def test_compiled_parts_have_the_same_losses(world: World, tmp_path: Path, recipe: str) -> None:
    for runs, compiled in (("eager", "False"), ("compiled", "True")):
        finish([sys.executable, *words(world, tmp_path / runs, recipe, "--loop.compile", compiled)])
    assert losses(tmp_path / "compiled", recipe) == pytest.approx(losses(tmp_path / "eager", recipe), rel=1e-3)
