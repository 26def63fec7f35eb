"""One optimiser step: forward and backward over the micro-batches, one agreement of all processes, one update."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from accelerate import Accelerator
from torch import Tensor

from tbps.config.run import Run
from tbps.data.batch import Batch, Draws, HostBatch
from tbps.data.contrast_scope import Rows
from tbps.data.views import make_views
from tbps.nn.host_copy import HostCopy
from tbps.training.agreement import EXITS, Agreement
from tbps.training.contrast import gathered_scope, made_scope, make_rows
from tbps.training.data_parallel import Parallel
from tbps.training.distributed import sum_over_processes
from tbps.training.peers import Pulse
from tbps.training.schedule import learning_rate, second_stage_step
from tbps.training.seeds import seed_micro_step

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Losses:
    """Losses and numbers of one step on this process, averaged over its micro-batches."""

    names: tuple[str, ...]
    """"loss/<name>" of each loss, then "loss", their weighted sum."""
    mean_X: Tensor
    """On the device, in the order of `names`."""
    number_names: tuple[str, ...]
    """Of what the method tells the log beside its losses."""
    number_N: Tensor
    """On the device, in the order of `number_names`."""
    keys: tuple[str, ...]
    """Pairs of this process."""


class Stepper:
    """The parts of a step, in the order in which the loop calls them."""

    def __init__(
        self,
        run: Run,
        *,
        accelerator: Accelerator,
        parallel: Parallel,
        weights: Mapping[str, float],
        steps_per_epoch: float,
        micro_batches: int,
        pulse: Pulse,
    ) -> None:
        self.run, self.accelerator, self.parallel, self.weights = run, accelerator, parallel, weights
        self.steps_per_epoch = steps_per_epoch
        self.second_stage_step = second_stage_step(run.schedule, steps_per_epoch=steps_per_epoch)
        self.micro_batches, self.pulse = micro_batches, pulse
        self.contrasts_all = run.needs.contrast == "batch"
        self.two_passes = self.contrasts_all and micro_batches > 1

    def begin(self, step: int) -> None:
        """Forget the optimiser's state where the second stage begins: it averages other gradients."""
        if step and step == self.second_stage_step:
            logger.info("the second stage begins after step %d: learning rate and optimiser start anew", step)
            self.parallel.reset_optimiser()

    def set_learning_rates(self, step: int) -> dict[str, float]:
        """Set every group's rate for `step`; return the rates by their names in the log, `lr` first."""
        rates = {"lr": self._rate(step, self.run.optim.lr)}
        for group in self.parallel.groups:
            rates[group["rate_name"]] = group["lr"] = self._rate(step, group["base_lr"])
        return rates

    def _rate(self, step: int, base_lr: float) -> float:
        return learning_rate(self.run.schedule, step=step, steps_per_epoch=self.steps_per_epoch, base_lr=base_lr)

    def forward_backward(self, step: int, batches: Iterator[HostBatch]) -> Losses:
        """Gradients of the weighted losses, averaged over micro-batches and processes."""
        parts: list[Losses] = []
        rows: Rows | None = None
        if self.two_passes:
            self.pulse.enter("")  # the loader judges itself
            held = list(islice(batches, self.micro_batches))
            rows, batches = self._first_pass(step, held), iter(held)
        for micro in range(self.micro_batches):
            with self.parallel.micro_step(first=micro == 0, last=micro == self.micro_batches - 1):
                self.pulse.enter("")  # the loader judges itself
                parts.append(self._micro_step(step, micro, next(batches), rows))
        return Losses(
            names=parts[0].names,
            mean_X=torch.stack([part.mean_X for part in parts]).sum(0),
            number_names=parts[0].number_names,
            number_N=torch.stack([part.number_N for part in parts]).sum(0),
            keys=tuple(key for part in parts for key in part.keys),
        )

    def _first_pass(self, step: int, held: list[HostBatch]) -> Rows:
        """The rows of the whole batch that a method contrasts, without gradients."""
        self.pulse.enter(f"the first of two forward passes of step {step + 1}")
        batches = [partial(self._make_batch, step, micro, host) for micro, host in enumerate(held)]
        return make_rows(batches, self.parallel.contrast_rows)

    def _make_batch(self, step: int, micro: int, host: HostBatch) -> tuple[Batch, Draws]:
        """The batch on the device, and the random numbers of its forward pass: the same ones as often as it is made."""
        group_pairs = self.run.data.group_pairs
        # Each process computes a contiguous slice of the global batch.
        first_group = (self.accelerator.process_index * self.micro_batches + micro) * len(host.keys) // group_pairs
        seed_micro_step(seed=self.run.loop.seed, step=step, first_group=first_group)
        batch = make_views(
            host,
            self.accelerator.device,
            pixels=self.run.data.pixels,
            group_pairs=group_pairs,
            first_group=first_group,
            last_stage=step >= self.second_stage_step,
        )
        return batch, host.draws

    def _micro_step(self, step: int, micro: int, host: HostBatch, rows: Rows | None) -> Losses:
        """rows: of the whole batch, where they were made before."""
        self.pulse.enter(f"the forward pass of step {step + 1}")
        batch, draws = self._make_batch(step, micro, host)
        processes = self.accelerator.num_processes
        if rows is not None:
            batch.scope = made_scope(batch, rows, shares=processes * self.micro_batches)
        elif self.contrasts_all:
            batch.scope = gathered_scope(batch, processes=processes)
        losses, numbers = self.parallel(batch, draws)
        values = torch.stack(list(losses.values())).float()
        weights = [self._weight(name) for name in losses]
        total = sum((weight * value for weight, value in zip(weights, losses.values())), start=values.new_zeros(()))
        self.pulse.enter(f"the backward pass of step {step + 1}")
        self.parallel.backward(total / self.micro_batches)
        return Losses(
            names=(*(f"loss/{name}" for name in losses), "loss"),
            mean_X=torch.cat([values, total[None]]).detach() / self.micro_batches,
            number_names=tuple(numbers),
            number_N=_stack(numbers, values.device) / self.micro_batches,
            keys=host.keys,
        )

    def _weight(self, name: str) -> float:
        if name not in self.weights:
            raise ValueError(
                f"the method returned a loss {name!r} that has no weight (weights: {', '.join(self.weights)}); expected one"
                " in the method's `weights`; what is not to be minimised belongs to the numbers that it returns"
            )
        return self.weights[name]

    def update(
        self, step: int, losses: Losses, exit_status: int, *, data_wait_s: float, memory_gib: float = 0.0
    ) -> Agreement:
        """Clip, then let every parameter take its step, unless a number is not finite: decided on the device.

        data_wait_s: seconds that this process waited for the pairs of the step; memory_gib: what it has used at most.
        """
        self.pulse.enter(f"the update of step {step + 1}")
        return self.parallel.update(lambda norm: self._agree(losses, norm, exit_status, data_wait_s, memory_gib))

    def _agree(self, losses: Losses, norm: Tensor, exit_status: int, data_wait_s: float, memory_gib: float) -> Agreement:
        """One all-reduce of all numbers, and of whether a process was asked to stop."""
        device = losses.mean_X.device
        # full() is a fill on the device; tensor() would be a copy that waits for it
        asked = [torch.full((1,), float(exit_status == known), device=device) for known in EXITS]
        waited = torch.full((1,), data_wait_s, device=device)
        memory_R = torch.zeros(self.accelerator.num_processes, device=device)
        memory_R[self.accelerator.process_index].fill_(memory_gib)
        told = [losses.mean_X, norm[None].float(), *asked, waited, losses.number_N, memory_R]
        vector_X = sum_over_processes(torch.cat(told))
        not_finite = (~torch.isfinite(vector_X[: len(losses.names) + 1])).any().float()
        return Agreement(
            names=(*losses.names, "grad_norm"),
            number_names=losses.number_names,
            not_finite=not_finite,
            sum_X=HostCopy(vector_X),
            num_processes=self.accelerator.num_processes,
        )


def _stack(numbers: Mapping[str, Tensor], device: torch.device) -> Tensor:
    if not numbers:
        return torch.zeros(0, device=device)
    return torch.stack([value.detach().float().reshape(()) for value in numbers.values()])
