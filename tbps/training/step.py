"""One optimiser step: forward and backward over the micro-batches, one agreement of all processes, one update."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from tbps.config.run import Run
from tbps.data.batch import HostBatch
from tbps.data.views import make_views
from tbps.training.distributed import sum_over_processes
from tbps.training.schedule import learning_rate
from tbps.training.seeds import seed_micro_step
from tbps.training.stop_signals import INTERRUPT_EXIT, TERMINATE_EXIT

_EXITS = (INTERRUPT_EXIT, TERMINATE_EXIT)


@dataclass(kw_only=True)
class Losses:
    """What a step's micro-batches left on this process."""

    names: tuple[str, ...]
    """"loss/<name>" of each loss, then "loss", their weighted sum."""
    sum_X: Tensor
    """Means over this process's micro-batches, on the device, in the order of `names`."""
    keys: tuple[str, ...]
    """Pairs of this process."""


@dataclass(kw_only=True)
class Agreement:
    """Numbers that are the same on every process. They are copied to the host while the update runs."""

    names: tuple[str, ...]
    not_finite: Tensor
    """On the device: 1.0 if a loss or the gradient norm is not finite, else 0.0."""
    host_X: Tensor
    copied: torch.cuda.Event | None
    num_processes: int

    def read(self) -> tuple[dict[str, float], int]:
        """Wait for the copy. Means of the losses, and `grad_norm`; and the exit status somebody asked for, or 0."""
        if self.copied is not None:
            self.copied.synchronize()
        values: list[float] = self.host_X.tolist()
        numbers = {name: value / self.num_processes for name, value in zip(self.names, values)}
        asked = [exit_status for exit_status, count in zip(_EXITS, values[-len(_EXITS) :]) if count > 0]
        return numbers, max(asked, default=0)


class Stepper:
    """The parts of a step, in the order in which the loop calls them."""

    def __init__(
        self,
        run: Run,
        *,
        accelerator: Accelerator,
        method: Any,
        optimiser: torch.optim.AdamW,
        steps_per_epoch: float,
        micro_batches: int,
    ) -> None:
        self.run, self.accelerator, self.method, self.optimiser = run, accelerator, method, optimiser
        self.steps_per_epoch = steps_per_epoch
        self.micro_batches = micro_batches
        self.model = accelerator.prepare_model(method)
        self.parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]

    def set_learning_rates(self, step: int) -> dict[str, float]:
        """Set every group's rate for `step`; return the rates of encoders and heads."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(
                self.run.schedule, step=step, steps_per_epoch=self.steps_per_epoch, base_lr=group["base_lr"]
            )
        return {
            ("lr" if group["base_lr"] == self.run.optim.lr else "head_lr"): group["lr"]
            for group in self.optimiser.param_groups
        }

    def forward_backward(self, step: int, batches: Iterator[HostBatch]) -> Losses:
        """Gradients of the weighted losses, averaged over micro-batches here and over processes by DDP."""
        self.optimiser.zero_grad(set_to_none=True)
        parts: list[Losses] = []
        for micro in range(self.micro_batches):
            last = micro == self.micro_batches - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                parts.append(self._micro_step(step, micro, next(batches)))
        return Losses(
            names=parts[0].names,
            sum_X=torch.stack([part.sum_X for part in parts]).sum(0),
            keys=tuple(key for part in parts for key in part.keys),
        )

    def _micro_step(self, step: int, micro: int, host: HostBatch) -> Losses:
        seed_micro_step(seed=self.run.loop.seed, step=step, rank=self.accelerator.process_index, micro=micro)
        batch = make_views(host, self.accelerator.device, group_pairs=self.run.data.group_pairs)
        losses: dict[str, Tensor] = self.model(batch, host.draws)
        values = torch.stack(list(losses.values())).float()
        weights = [self.method.weights[name] for name in losses]
        total = sum((weight * value for weight, value in zip(weights, losses.values())), start=values.new_zeros(()))
        self.accelerator.backward(total / self.micro_batches)
        return Losses(
            names=(*(f"loss/{name}" for name in losses), "loss"),
            sum_X=torch.cat([values, total[None]]).detach() / self.micro_batches,
            keys=host.keys,
        )

    def agree(self, losses: Losses, exit_status: int) -> Agreement:
        """One all-reduce of all numbers, and of whether a process was asked to stop."""
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        device = losses.sum_X.device
        # full() is a fill on the device; tensor() would be a copy that waits for it
        asked = [torch.full((1,), float(exit_status == known), device=device) for known in _EXITS]
        vector_X = sum_over_processes(torch.cat([losses.sum_X, norm[None].float(), *asked]))
        not_finite = (~torch.isfinite(vector_X)).any().float()
        host_X, copied = vector_X, None
        if device.type == "cuda":
            host_X = torch.empty(vector_X.shape, pin_memory=True)
            host_X.copy_(vector_X, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._grad_norm = norm
        return Agreement(
            names=(*losses.names, "grad_norm"),
            not_finite=not_finite,
            host_X=host_X,
            copied=copied,
            num_processes=self.accelerator.num_processes,
        )

    def update(self, agreement: Agreement) -> None:
        """Clip, then let every parameter take its step, unless the numbers are not finite: decided on the device."""
        if clip := self.run.optim.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, clip, self._grad_norm)
        self.optimiser.found_inf = agreement.not_finite  # type: ignore[attr-defined]
        self.optimiser.step()
