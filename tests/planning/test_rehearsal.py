"""What a step on fake tensors is said to cost, beside what the same step costs for real."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_runs import PAIRS, run_of
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tbps.config.run import Run
from tbps.data.batch import HostBatch
from tbps.methods.method import Method
from tbps.methods.registry import build_method
from tbps.planning.backward import Backward
from tbps.planning.rehearsal import rehearse
from tbps.planning.typical_batch import typical_batch
from tbps.training.adapters import adapt
from tbps.training.data_parallel import DataParallel
from tbps.training.distributed import start_processes
from tbps.training.peers import Pulse
from tbps.training.step import Stepper

DROPOUT = ("--method.bert.dropout", "0.1")
CHECKPOINTING = ("--loop.activation-checkpointing", "True")
RECIPES = {
    "albef": DROPOUT,
    "rasa": DROPOUT,
    "mars": DROPOUT,
    "aga": DROPOUT,
    "laip": DROPOUT,
    "aptm": DROPOUT,
    "clip": (),
    "irra": (),
    "bilma": (),
    "bamg": (),
    "pretrain_mals:tiny-aptm": DROPOUT,
}


class Real:
    """The step of a run for real, on this processor, after a first one."""

    def __init__(self, run: Run) -> None:
        accelerator = start_processes(run.loop)
        self.method = build(run)
        self.parallel = DataParallel(accelerator, self.method, run.optim)
        self.stepper = Stepper(
            run,
            accelerator=accelerator,
            parallel=self.parallel,
            weights=self.method.weights,
            steps_per_epoch=1.0,
            micro_batches=1,
            pulse=Pulse(),
        )
        self.host = real_batch(run)
        self.step()

    def step(self) -> None:
        """All of it, from no gradients."""
        number = self.stepper.second_stage_step + 1
        self.parallel.optimiser.zero_grad(set_to_none=True)
        losses = self.stepper.forward_backward(number, iter([self.host]))
        self.stepper.update(number, losses, 0, data_wait_s=0.0)
        self.method.after_step()

    def peak(self) -> int:
        """Most bytes that torch has handed out at once during a step, beside those before it."""
        self.parallel.optimiser.zero_grad(set_to_none=True)
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            self.step()
        live = peak = 0
        events: list[Any] = [one for one in profile.kineto_results.events() if one.name() == "[memory]"]
        for event in sorted(events, key=lambda one: one.start_ns()):
            live += event.nbytes()
            peak = max(peak, live)
        return peak

    def flops(self) -> int:
        """Of a step, by torch's own counter."""
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = _OneModule()  # torch's loses its way where a module is called with and without gradients
        with counter:
            self.step()
        return counter.get_total_flops()


class _OneModule:
    """Everything is of one module."""

    parents = ("Global",)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def build(run: Run) -> Method:
    torch.manual_seed(0)
    method = build_method(run.method, image_px=run.data.image_px, num_identities=run.data.num_identities)
    adapt(method, run.lora)
    method.set_activation_checkpointing(run.loop.activation_checkpointing)
    return method.train()


def real_batch(run: Run) -> HostBatch:
    return typical_batch(run, PAIRS).each_tensor(Tensor.contiguous)


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [*RECIPES.items(), ("mars", (*DROPOUT, *CHECKPOINTING)), ("irra", CHECKPOINTING)],
    ids=lambda value: value if isinstance(value, str) else "checkpointing" if CHECKPOINTING[0] in value else "",
)
def test_peak_memory_and_flops_are_those_of_the_real_step(recipe: str, overrides: tuple[str, ...]) -> None:
    run = run_of(recipe, *overrides)
    predicted, real = rehearse(run, pairs=PAIRS, device="cpu"), Real(run)
    assert predicted.peak - sum(predicted.kept.values()) == pytest.approx(real.peak(), rel=0.05)
    # LAIP takes a gradient in its forward pass, where the engine leaves out those of weights that nobody asked for
    assert sum(predicted.flops.values()) == pytest.approx(real.flops(), rel=0.1 if recipe == "laip" else 0.02)
    trained = [parameter for parameter in real.method.parameters() if parameter.requires_grad]
    assert predicted.parameters["trained"] == sum(parameter.numel() for parameter in trained)
    assert predicted.gradient == sum(p.grad.numel() * 4 for p in trained if p.grad is not None)


@pytest.mark.parametrize("recipe", RECIPES)
def test_on_a_gpu_that_is_not_there_no_step_waits_for_a_number(recipe: str) -> None:
    run = run_of(recipe)
    cost = rehearse(replace(run, loop=replace(run.loop, precision="bf16")), pairs=PAIRS, processes=3)
    assert cost.waits == 0
    assert cost.gradient > 0 and cost.activations > 0 and cost.checkpoint >= 12 * cost.parameters["trained"]
    if run.needs.contrast == "batch" or cost.parameters["momentum"]:
        assert cost.gathered > 0


@pytest.mark.parametrize("recipe", ["mars", "laip", "aptm", "bamg"])
def test_walking_the_graph_gives_the_gradients_of_the_engine(recipe: str) -> None:
    run = run_of(recipe, *CHECKPOINTING, *RECIPES[recipe])
    engine, walked = Real(run), Real(run)
    passed: list[Any] = []
    walk = Backward(before=passed.append, gradient=lambda gradient: None)
    walked.parallel.backward = walk.run  # type: ignore[method-assign]
    for one in (engine, walked):
        one.parallel.optimiser.zero_grad(set_to_none=True)
    engine.stepper.forward_backward(5, iter([engine.host]))
    with walk.saving():
        walked.stepper.forward_backward(5, iter([walked.host]))
    assert len(passed) > 100
    for (name, expected), found in zip(engine.method.named_parameters(), walked.method.parameters(), strict=True):
        assert (expected.grad is None) == (found.grad is None), name
        if expected.grad is not None and found.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_a_field_of_the_methods_own_cannot_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of("clip")
    needs = replace(run.needs, fields=("camera",))
    monkeypatch.setattr(type(run.method), "needs", lambda self, image_px: needs)
    with pytest.raises(ValueError, match=r"camera is a field of the method's own.*--pairs-per-s"):
        rehearse(run, pairs=PAIRS)


def test_pairs_are_whole_groups() -> None:
    with pytest.raises(ValueError, match=r"pairs is 24, expected a multiple of data.group_pairs \(16\)"):
        rehearse(run_of("rasa"), pairs=24)
