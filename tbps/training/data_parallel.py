"""A method on one process, or on several that each hold all of it (DDP): gradients, update, state.

`tbps/training/zero.py` does the same with DeepSpeed; the loop knows what is here and nothing of either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from tbps.config.optim import Optimiser
from tbps.data.batch import Batch, Draws
from tbps.data.contrast_scope import Rows
from tbps.methods.method import LossesAndNumbers, Method
from tbps.training.agreement import Agreement
from tbps.training.contrast import rows_of
from tbps.training.optimiser import load_state_tensors, make_optimiser, state_tensors
from tbps.training.uncompiled import uncompiled, uncompiled_ddp


class Parallel(Protocol):
    """How a method is spread over the processes."""

    groups: list[dict[str, Any]]
    """Parameter groups of the optimiser: "lr" is read at each update, "base_lr" is the group's own rate, "rate_name" its
    name in the log."""

    def __call__(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """The method's losses and numbers."""

    def contrast_rows(self, batch: Batch, draws: Draws) -> Rows:
        """The method's rows for a contrast over the whole batch, in the precision of its forward pass; without gradients."""

    def micro_step(self, *, first: bool, last: bool) -> Any:
        """Context of one forward and backward pass; gradients of all micro-steps add up."""

    def backward(self, loss: Tensor) -> None:
        """Gradients, averaged over the processes."""

    def gradient_norms(self) -> dict[str, Tensor]:
        """Norm of each trained parameter's gradient of the whole batch, 0 where there is none, by name: scalars on the
        device. Between the last backward pass of a step and its update; call on all."""

    def update(self, agree: Callable[[Tensor], Agreement]) -> Agreement:
        """Clip and take a step, unless the gradient norm is not finite. `agree` is called once, with that norm."""

    def model_tensors(self) -> Mapping[str, Tensor]:
        """The method's state, whole, on the first process; call on all."""

    def optimiser_tensors(self) -> Mapping[str, Tensor]:
        """The optimiser's state by parameter, whole, on the first process; call on all."""

    def load_optimiser_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `optimiser_tensors` gave on the first process of any run; call on all with all of it."""

    def reset_optimiser(self) -> None:
        """Make the optimiser's state what it was before the first step."""

    def whole_method(self) -> Method:
        """The method with all its weights, for evaluation; call on all."""


class DataParallel:
    """Every process holds weights, gradients and optimiser state."""

    def __init__(self, accelerator: Accelerator, method: Method, optim: Optimiser) -> None:
        self.accelerator, self.method, self.optim = accelerator, method, optim
        self.optimiser = make_optimiser(method, optim, uncompiled)
        self.groups: list[dict[str, Any]] = self.optimiser.param_groups
        self.parameters = [parameter for group in self.groups for parameter in group["params"]]
        with uncompiled_ddp():
            # It is on its device already; Accelerate would import DTensor, and sympy with it, to see whether it must stay.
            self.model = accelerator.prepare_model(method, device_placement=False)

    def __call__(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """The method's losses and numbers."""
        returned: LossesAndNumbers = self.model(batch, draws)
        return returned

    def contrast_rows(self, batch: Batch, draws: Draws) -> Rows:
        """The method's rows."""
        with self.accelerator.autocast():
            return rows_of(self.method, batch, draws)

    @contextmanager
    def micro_step(self, *, first: bool, last: bool) -> Iterator[None]:
        """The processes exchange gradients in the last one."""
        if first:
            self.optimiser.zero_grad(set_to_none=True)
        with nullcontext() if last else self.accelerator.no_sync(self.model):
            yield

    def backward(self, loss: Tensor) -> None:
        """Gradients."""
        self.accelerator.backward(loss)

    def gradient_norms(self) -> dict[str, Tensor]:
        """Of the gradients that all processes hold."""
        trained = {name: parameter for name, parameter in self.method.named_parameters() if parameter.requires_grad}
        return {name: norm_of(parameter.grad, parameter.device) for name, parameter in trained.items()}

    def update(self, agree: Callable[[Tensor], Agreement]) -> Agreement:
        """Decided on the device: the optimiser reads `not_finite` there."""
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        agreement = agree(norm)
        if clip := self.optim.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, clip, norm)
        self.optimiser.found_inf = agreement.not_finite  # type: ignore[attr-defined]
        self.optimiser.step()
        return agreement

    def model_tensors(self) -> Mapping[str, Tensor]:
        """The method's state."""
        return self.method.state_dict()

    def optimiser_tensors(self) -> Mapping[str, Tensor]:
        """Adam's state."""
        return state_tensors(self.optimiser)

    def load_optimiser_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Adam's state."""
        load_state_tensors(self.optimiser, tensors)

    def reset_optimiser(self) -> None:
        """Adam makes its state at its next step."""
        self.optimiser.state.clear()

    def whole_method(self) -> Method:
        """The method itself."""
        return self.method


def norm_of(gradient: Tensor | None, device: torch.device) -> Tensor:
    """Norm of a gradient, a float32 scalar on `device`; 0 where there is none."""
    return torch.zeros((), device=device) if gradient is None else gradient.detach().float().norm()
