"""Every method at a small size, as benchmarks/gpu.py builds it: whole steps, of which none reads from the device."""

from __future__ import annotations

import pytest
import torch
from counting import OperationCount
from real_methods import NAMES, build, run_of
from real_step import RealStep
from same_on_gpu import difference

CPU = torch.device("cpu")
ALWAYS = ("loss", "grad_norm")


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_step_would_make_a_gpu_wait_for_nothing(name: str) -> None:
    run = run_of(name, quick=True, pairs=6)
    steps = RealStep(run, build(run), CPU)
    before = {key: value.clone() for key, value in steps.method.named_parameters() if value.requires_grad}
    steps.step()
    assert steps.losses.keys() == {*(f"loss/{loss}" for loss, weight in steps.method.weights.items() if weight), *ALWAYS}
    moved = [key for key, value in steps.method.named_parameters() if key in before and not torch.equal(value, before[key])]
    assert len(moved) > 0.8 * len(before)  # half of an adapter stands still while the other half is 0
    one_hot = 2 * (name == "bilma")  # on a CPU alone torch looks at labels before it makes rows of them
    with OperationCount() as counted:  # as some of its backward passes
        steps.method(*steps.batch())
        steps.method.after_step()
    assert counted.operations > 50 and counted.syncs == one_hot


@pytest.mark.parametrize("name", ["mars", "bamg"])
def test_a_step_beside_itself_and_in_another_precision(name: str) -> None:
    same = difference(name, device=CPU)
    assert same.loss == same.gradient == 0.0
    rounded = difference(name, precision="bf16", device=CPU)
    assert 1e-6 < rounded.loss < 2e-2 and 1e-4 < rounded.gradient < 0.3
