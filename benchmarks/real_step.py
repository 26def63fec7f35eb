"""A whole training step as the loop makes it, on host batches that are there already: views, forward, backward, clipping,
update, momentum encoder and queue, and the one wait for the step's numbers."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from counting import count
from real_methods import host_batch
from torch import Tensor

from tbps.config.run import Run
from tbps.data.batch import Batch, Draws
from tbps.methods.method import Method
from tbps.training.data_parallel import DataParallel
from tbps.training.peers import Pulse
from tbps.training.step import Stepper

STEPS_PER_EPOCH = 100.0
_PREPARED = ("forward", "_original_forward", "_is_accelerate_prepared")
"""What Accelerate leaves at a method: an autocast of one precision around `forward`, and a mark that it needs no other."""
BATCHES = 4
"""Different batches that steps take in turn: their captions are of different lengths."""


class RealStep:
    """Steps of a run on one device. The method is trained; it must be on that device."""

    def __init__(self, run: Run, method: Method, device: torch.device) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # it remembers the precision of the one before
        for name in _PREPARED:
            method.__dict__.pop(name, None)
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if run.loop.precision == "bf16" else "no")
        self.run, self.method, self.device = run, method, device
        self.parallel = DataParallel(accelerator, method, run.optim)
        self.stepper = Stepper(
            run,
            accelerator=accelerator,
            parallel=self.parallel,
            weights=method.weights,
            steps_per_epoch=STEPS_PER_EPOCH,
            micro_batches=1,
            pulse=Pulse(),
        )
        self.batches = itertools.cycle([host_batch(run, seed=seed) for seed in range(BATCHES)])
        self.number = round(0.9 * run.schedule.epochs * STEPS_PER_EPOCH)  # past the warm-up, in the last stage
        self.losses: dict[str, float] = {}

    def step(self) -> None:
        """One step."""
        self.stepper.set_learning_rates(self.number)
        losses = self.stepper.forward_backward(self.number, self.batches)
        agreement = self.stepper.update(self.number, losses, 0, data_wait_s=0.0)
        self.method.after_step()
        self.losses = agreement.read().losses
        self.number += 1

    def batch(self) -> tuple[Batch, Draws]:
        """The next batch on the device, as the method gets it."""
        return self.stepper._make_batch(self.number, 0, next(self.batches))

    def gflop(self) -> float:
        """Floating-point work of a step's forward and backward pass, in GFLOP: padding is not computed, so all is needed."""
        return count(lambda: self.stepper.forward_backward(self.number, self.batches)).gflop

    def syncs(self) -> list[str]:
        """Where a step makes the host wait for the GPU: nowhere, if one goes through while CUDA's own debug mode makes an
        error of every wait; else all places, as its warnings tell them. The one wait that a step has, for the event behind
        which its numbers lie on the host, is none of these."""
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.step()
            return []
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
        finally:
            torch.cuda.set_sync_debug_mode("default")
        self.method.zero_grad(set_to_none=True)
        if (past := getattr(self.method, "past", None)) is not None:
            past.pending.clear()
        with sync_warnings() as found:
            self.step()
        return found


@contextmanager
def sync_warnings() -> Iterator[list[str]]:
    """Collects the places in Python where an operation waits for the GPU."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [f"{one.filename}:{one.lineno}" for one in caught if "called a synchronizing" in str(one.message)]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of steps one after another."""

    step_s: float
    """Mean seconds of a step."""
    peak_mib: float
    """Largest memory allocated on the GPU during them, weights and optimiser included; 0 on a CPU."""


def time_steps(
    step: Callable[[], Any], device: torch.device, *, warm: int = BATCHES, seconds: float = 1.5, most: int = 20
) -> Timing:
    """Run `step` so often as fits into some seconds, two times at least, after some that do not count."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(warm):
        step()
    began = now(device)
    step()
    one_s = now(device) - began
    steps = max(1, min(most, round(seconds / one_s)))
    for _ in range(steps):
        step()
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0
    return Timing(step_s=(now(device) - began) / (1 + steps), peak_mib=peak)


def now(device: torch.device) -> float:
    """Wall-clock seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def total_of(method: Any, losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum of a step's losses."""
    return torch.stack([method.weights[name] * loss.float() for name, loss in losses.items()]).sum()
