"""`loop.cuda_graphs` on a GPU: steps that play graphs back have the losses of eager ones. Their speed is a row of
benchmarks/gpu.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from real_methods import NAMES, build, run_of
from real_step import RealStep

from tbps.training.compilation import compile_method, put_back

STEPS = 5


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_eager_steps(name: str) -> None:
    run, device = run_of(name, quick=True, pairs=8), torch.device("cuda", 0)
    run = replace(run, loop=replace(run.loop, compile=True, cuda_graphs=True))
    eager, played = (RealStep(run, build(run).cuda(), device) for _ in range(2))
    compiled = compile_method(played.method, device, cuda_graphs=True)
    assert compiled is not None and compiled.cuda_graphs
    try:
        for step in range(STEPS):
            eager.step()
            compiled.begin_step()
            played.step()
            assert played.losses == pytest.approx(eager.losses, rel=1e-3, abs=1e-4), f"step {step + 1}"
    finally:
        put_back(played.method)
        torch._dynamo.reset()
