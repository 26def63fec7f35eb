"""One step is the same however its batch is shared out: one process, accumulation, two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_world import LAUNCH_TWO, World, call, metrics, run_recipe

from tbps.training.checkpoint import read_tensors

STEPS = 20
TOLERANCE = 1e-5
VALUE_PARTS = {"qkv.bias": (3, (0, 2)), "key_value.bias": (2, (1,))}
"""Biases that hold a key part: of how many parts those that are not keys. One number added to all keys changes no softmax,
so a key bias has no gradient but rounding, which Adam divides by its own size. Nothing else may differ."""


def _arguments(world: World, runs: Path) -> list[str]:
    changes = ["--schedule.epochs", "5", "--evaluation.every-epochs", "0", "--evaluation.test", "False"]
    return ["tiny", *world.overrides(runs, max_steps=STEPS), *changes]


def _assert_same(found: Path, expected: Path) -> None:
    ours, theirs = metrics(found / "mars/tiny"), metrics(expected / "mars/tiny")
    assert [line["step"] for line in ours[:STEPS]] == list(range(1, STEPS + 1))
    for line, other in zip(ours[:STEPS], theirs, strict=False):
        assert line == pytest.approx(other, rel=TOLERANCE), f"step {line['step']}"
    weights, others = (
        read_tensors(runs / f"mars/tiny/checkpoints/step-{STEPS:08d}/model.safetensors") for runs in (found, expected)
    )
    assert weights.keys() == others.keys() and any(name.startswith("twin.") for name in weights)
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


@pytest.fixture(scope="module")
def one_process(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("one")
    assert run_recipe("mars", *_arguments(world, runs)) == 0
    return runs


@pytest.mark.slow
def test_accumulating_group_by_group(world: World, one_process: Path, tmp_path: Path) -> None:
    assert run_recipe("mars", *_arguments(world, tmp_path), "--data.micro-batch-pairs", "16") == 0
    _assert_same(tmp_path, one_process)


@pytest.mark.slow
def test_two_processes(world: World, one_process: Path, tmp_path: Path) -> None:
    done = call(*LAUNCH_TWO, "recipes/mars.py", *_arguments(world, tmp_path))
    assert done.returncode == 0, done.stderr
    _assert_same(tmp_path, one_process)
