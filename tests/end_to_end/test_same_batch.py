"""One step is the same however its batch and its weights are shared out: accumulation, several processes, ZeRO."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from ready_python import Ready
from small_world import LAUNCH_TWO, REPOSITORY, World, call, environment, launch, metrics, run_recipe, spread

from tbps.runs.checkpoint import read_tensors

STEPS = 6
"""Into the second epoch by 32 pairs a step."""
LONG = 10
"""The same by 24."""
TOLERANCE = 1e-5
HALF_EMPTY = ["--method.empty-queue", "ignored", "--method.queue-pairs"]
"""With a number of pairs: filled more than halfway through."""
VALUE_PARTS = {"qkv.bias": (3, (0, 2)), "key_value.bias": (2, (1,))}
"""Biases that hold a key part: of how many parts those that are not keys. One number added to all keys changes no softmax,
so a key bias has no gradient but rounding, which Adam divides by its own size. Nothing else may differ."""


def _arguments(world: World, runs: Path, *, steps: int = STEPS) -> list[str]:
    """As real recipes train: with dropout and loader workers."""
    changes = ["--schedule.epochs", "5", "--evaluation.every-epochs", "0", "--evaluation.test", "False"]
    real = ["--method.bert.dropout", "0.1", "--data.workers", "1", "--loop.log-steps", "1"]
    return ["tiny", *world.overrides(runs, max_steps=steps), *changes, *real]


@dataclass(frozen=True, kw_only=True)
class Alone:
    """A run by one process."""

    recipe: str
    runs: Path


def _assert_same(found: Path, alone: Alone) -> None:
    ours, theirs = metrics(found / alone.recipe / "tiny"), metrics(alone.runs / alone.recipe / "tiny")
    assert [line["step"] for line in ours[:STEPS]] == list(range(1, STEPS + 1))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6), "step 1"
    for line, other in zip(ours[:STEPS], theirs, strict=False):
        assert line == pytest.approx(other, rel=TOLERANCE), f"step {line['step']}"
    weights, others = (
        read_tensors(runs / f"{alone.recipe}/tiny/checkpoints/step-{STEPS:08d}/model.safetensors")
        for runs in (found, alone.runs)
    )
    assert weights.keys() == others.keys() and any(name.startswith("momentum_encoder.") for name in weights)
    assert torch.equal(weights["queue.identity_K"], others["queue.identity_K"])
    wrong = {}
    for name, tensor in weights.items():
        error = (_without_keys(name, tensor) - _without_keys(name, others[name])).abs().max().item()
        bound = TOLERANCE * others[name].double().abs().max().item()
        if error > bound:
            wrong[name] = f"{error:.2e} of at most {bound:.2e}"
    assert not wrong


def _without_keys(name: str, tensor: torch.Tensor) -> torch.Tensor:
    num_parts, kept = VALUE_PARTS.get(".".join(name.split(".")[-2:]), (1, (0,)))
    parts = tensor.double().chunk(num_parts) if num_parts > 1 else (tensor.double(),)
    return torch.cat([parts[part].flatten() for part in kept])


@pytest.fixture(scope="module", params=["mars", "aga", "laip"])
def one_process(world: World, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Alone:
    alone = Alone(recipe=request.param, runs=tmp_path_factory.mktemp("one"))
    assert run_recipe(alone.recipe, *_arguments(world, alone.runs)) == 0
    return alone


@pytest.mark.slow
def test_accumulating_group_by_group(world: World, one_process: Alone, tmp_path: Path) -> None:
    assert run_recipe(one_process.recipe, *_arguments(world, tmp_path), "--data.micro-batch-pairs", "16") == 0
    _assert_same(tmp_path, one_process)


@pytest.mark.slow
def test_two_processes(world: World, one_process: Alone, tmp_path: Path) -> None:
    done = call(*LAUNCH_TWO, f"recipes/{one_process.recipe}.py", *_arguments(world, tmp_path))
    assert done.returncode == 0, done.stderr
    _assert_same(tmp_path, one_process)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero(world: World, one_process: Alone, tmp_path: Path, stage: int) -> None:
    done = call(*LAUNCH_TWO, f"recipes/{one_process.recipe}.py", *_arguments(world, tmp_path), **spread(stage))
    if (one_process.recipe, stage) == ("laip", 3):
        assert done.returncode != 0 and not (tmp_path / "laip").exists()
        assert "laip: Laip cannot train under ZeRO-3, expected DDP or a stage of 1, 2: change the launch" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    _assert_same(tmp_path, one_process)
    memory = re.search(r"largest memory of each process: (.*)", done.stderr)
    assert memory is not None and len(re.findall(r"\d+ MiB", memory[1])) == 2
    sys.stdout.write(f"ZeRO-{stage}: {memory[1]}\n")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["albef", "rasa"])
def test_zero_3_of_the_other_methods(world: World, tmp_path: Path, recipe: str) -> None:
    alone = Alone(recipe=recipe, runs=tmp_path / "one")
    changes = [*HALF_EMPTY, "112"] if recipe == "albef" else []
    assert run_recipe(recipe, *_arguments(world, alone.runs), *changes) == 0
    done = call(*LAUNCH_TWO, f"recipes/{recipe}.py", *_arguments(world, tmp_path / "two"), *changes, **spread(3))
    assert done.returncode == 0, done.stderr
    _assert_same(tmp_path / "two", alone)


# (processes, ZeRO stage, pairs of a micro-batch), one after the other in one run folder
WORLDS = ((1, 0, 0), (2, 1, 4), (4, 2, 2), (3, 3, 4), (1, 0, 8))


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes_and_another_stage(world: World, tmp_path: Path) -> None:
    changes = ["--data.batch-pairs", "24", "--data.group-pairs", "2", *HALF_EMPTY, "176"]
    whole = [*_arguments(world, tmp_path / "whole", steps=LONG), *changes]
    assert run_recipe("mars", *whole) == 0
    parts = [*_arguments(world, tmp_path / "parts", steps=LONG), *changes]
    run_folder = tmp_path / "parts" / "mars" / "tiny"
    for number, (processes, stage, micro) in enumerate(WORLDS, start=1):
        last = number == len(WORLDS)
        words = [*launch(processes), "recipes/mars.py", *parts, "--data.micro-batch-pairs", str(micro)]
        log = _run_until(words, run_folder, step=LONG if last else 2 * number, **spread(stage))
        assert number == 1 or "going on from" in log, log
    ours, theirs = metrics(run_folder)[:LONG], metrics(tmp_path / "whole" / "mars" / "tiny")[:LONG]
    assert [line["step"] for line in ours] == list(range(1, LONG + 1))  # every step, so every pair, once
    for line, other in zip(ours, theirs, strict=True):
        assert line == pytest.approx(other, rel=1e-4), f"step {line['step']}"


def _run_until(words: list[str], run_folder: Path, *, step: int, **changes: str) -> str:
    """Start a run, ask it to stop once it has done `step` steps, return its log; the last step ends it anyway."""
    log = run_folder.parent / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    process = Ready(words, folder=REPOSITORY, variables=environment(**changes), output=log, errors=log)
    deadline = time.monotonic() + 180
    while process.poll() is None and (step == LONG or _steps_done(run_folder) < step):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    process.terminate()
    status = process.wait(60)
    assert status == 0 if step == LONG else status != 0, log.read_text()
    assert "all saved" in log.read_text() or step == LONG, log.read_text()
    return log.read_text()


def _steps_done(run_folder: Path) -> int:
    file = run_folder / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0
