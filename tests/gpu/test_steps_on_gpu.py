"""A step of every method on a GPU: the CPU's losses and gradients, and nothing that makes the host wait."""

from __future__ import annotations

import pytest
import torch
from real_methods import NAMES, build, run_of
from real_step import RealStep
from same_on_gpu import difference

BF16 = 5e-2
"""Losses in bfloat16 autocast against float32: eight bits, through some layers."""


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_the_cpus(name: str) -> None:
    found = difference(name, device=torch.device("cuda", 0))
    assert found.loss <= 1e-4, found
    assert found.gradient <= 1e-4, found


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near(name: str) -> None:
    found = difference(name, precision="bf16", device=torch.device("cuda", 0))
    assert found.loss <= BF16, found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_step_waits_for_nothing_but_its_numbers(name: str, precision: str) -> None:
    run = run_of(name, quick=True, pairs=16, precision=precision)
    steps = RealStep(run, build(run).cuda(), torch.device("cuda", 0))
    for _ in range(5):  # fills caches: every batch once, and one again
        steps.step()
    assert steps.syncs() == []


def test_a_planted_wait_is_told() -> None:
    run = run_of("clip", quick=True, pairs=16)
    steps = RealStep(run, build(run).cuda(), torch.device("cuda", 0))
    for _ in range(5):
        steps.step()
    steps.method.towers.image.blocks[0].register_forward_hook(lambda *told: told[2].sum().item())
    found = steps.syncs()
    assert len(found) == 1 and "test_steps_on_gpu.py" in found[0]
