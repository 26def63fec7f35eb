"""A method under DeepSpeed's ZeRO: optimiser state (stage 1), gradients (2) and weights (3) are spread over the processes.

The step, the loop and the checkpoints are those of DDP: a checkpoint holds whole tensors by parameter name, so it can be
read under any stage and by any number of processes. Weights stay float32; bfloat16 is autocast inside the method.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tbps.config.optim import Optimiser
from tbps.config.run import Run
from tbps.data.batch import Batch, Draws
from tbps.data.contrast_scope import Rows
from tbps.methods.method import LossesAndNumbers, Method
from tbps.training.agreement import Agreement
from tbps.training.contrast import rows_of
from tbps.training.data_parallel import norm_of
from tbps.training.optimiser import check_state_tensors, make_optimiser

_MOMENTS = ("exp_avg", "exp_avg_sq")


class _Autocast(nn.Module):
    """The method in mixed precision. Inside the engine, which switches off an autocast that surrounds it."""

    def __init__(self, method: Method, *, bf16: bool) -> None:
        super().__init__()
        self.method = method
        self.bf16 = bf16

    def forward(self, batch: Batch, draws: Draws, *, rows: bool = False) -> Any:
        """The method's losses and numbers; rows: its rows for a contrast over the whole batch."""
        with torch.autocast(batch.identity_B.device.type, torch.bfloat16, enabled=self.bf16):
            return rows_of(self.method, batch, draws) if rows else self.method(batch, draws)


class Zero:
    """The method inside a DeepSpeed engine."""

    def __init__(
        self, accelerator: Accelerator, method: Method, run: Run, *, micro_batches: int, build: Callable[[], Method]
    ) -> None:
        optimiser = make_optimiser(method, run.optim)
        self.method, self.build, self.device = method, build, accelerator.device
        self.rank, self.num_processes = accelerator.process_index, accelerator.num_processes
        self.named = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
        settings = accelerator.deepspeed_plugin.deepspeed_config
        self.stage = int(settings["zero_optimization"]["stage"])
        settings.update(_settings(run.optim, micro_batches=micro_batches, processes=self.num_processes))
        self.shapes = {name: tuple(tensor.shape) for name, tensor in method.state_dict().items()}
        for parameter in method.parameters():
            # DeepSpeed 0.19 sends weights as bytes, which a tensor without dimensions has no view of.
            if parameter.dim() == 0:
                parameter.data = parameter.data.view(1)
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        prepared = accelerator.prepare(_Autocast(method, bf16=run.loop.precision == "bf16"), optimiser)
        self.engine: Any = prepared[0]
        self.inner: torch.optim.Adam = self.engine.optimizer.optimizer
        self.groups: list[dict[str, Any]] = self.inner.param_groups
        self._link_optimiser_state()

    def __call__(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """The method's losses and numbers."""
        returned: LossesAndNumbers = self.engine(batch, draws)
        return returned

    def contrast_rows(self, batch: Batch, draws: Draws) -> Rows:
        """The method's rows, through the engine, which gathers weights under stage 3."""
        rows: Rows = self.engine(batch, draws, rows=True)
        return rows

    @contextmanager
    def micro_step(self, *, first: bool, last: bool) -> Iterator[None]:
        """The engine empties the gradients itself, after an update."""
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Gradients; the loss is already divided by the number of micro-batches.

        The engine looks at gradients alone. So those of a loss that is not finite are made NaN, without waiting for it:
        the engine then updates on no process.
        """
        finite = torch.where(loss.detach().isfinite(), 1.0, float("nan"))
        self.engine.backward(loss * finite, scale_wrt_gas=False)

    def gradient_norms(self) -> dict[str, Tensor]:
        """Each gradient is put together from its shares, one after another."""
        from deepspeed.utils import safe_get_full_grad

        return {name: norm_of(safe_get_full_grad(parameter), self.device) for name, parameter in self.named.items()}

    def update(self, agree: Callable[[Tensor], Agreement]) -> Agreement:
        """The engine finds the norm, and leaves the weights alone where it is not finite, in one call."""
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return agree(torch.as_tensor(norm, dtype=torch.float32, device=self.device))

    # -- state, whole -----------------------------------------------------------------------------------------------------

    def model_tensors(self) -> Mapping[str, Tensor]:
        """Tensors on the host; under stage 3 gathered one by one."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.method.state_dict(keep_vars=True).items():
            whole = self._whole(tensor)
            if self.rank == 0:
                tensors[name] = whole.detach().cpu().clone().view(self.shapes[name])
        return tensors

    def optimiser_tensors(self) -> Mapping[str, Tensor]:
        """Tensors on the host, by the names that DDP writes."""
        from deepspeed.utils import safe_get_full_optimizer_state

        # The same for every parameter: all of them get a gradient in every step.
        steps = self.inner.state[self._flat_shares()[0]]["step"]
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.named.items():
            moments = {part: safe_get_full_optimizer_state(parameter, part) for part in _MOMENTS}
            if self.rank == 0:
                tensors |= {f"{part}/{name}": tensor.cpu().view(self.shapes[name]) for part, tensor in moments.items()}
                tensors[f"step/{name}"] = steps.cpu().clone()
        return tensors

    def load_optimiser_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Every process takes its share."""
        check_state_tensors(tensors, {name: self.shapes[name] for name in self.named})
        if not tensors:
            return
        for flat in self._flat_shares():
            self.inner.state[flat]["step"].copy_(tensors[f"step/{next(iter(self.named))}"])
        for name, parameter in self.named.items():
            for part in _MOMENTS:
                self._set_moment(parameter, tensors[f"{part}/{name}"].to(self.device), part)

    def _set_moment(self, parameter: Tensor, whole: Tensor, part: str) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.stage < 3:
            safe_set_full_optimizer_state(parameter, whole, part)
            return
        # The last shares are padded where the processes do not divide a parameter, which DeepSpeed's own call forgets.
        share: int = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        padded = torch.nn.functional.pad(whole.flatten(), (0, share * self.num_processes - whole.numel()))
        safe_set_local_optimizer_state(parameter, padded[share * self.rank : share * (self.rank + 1)], part)

    def reset_optimiser(self) -> None:
        """In place: DeepSpeed holds on to these tensors."""
        for flat in self._flat_shares():
            for tensor in self.inner.state[flat].values():
                tensor.zero_()

    def whole_method(self) -> Method:
        """A copy outside the engine: evaluation calls more than `forward`, which alone gathers weights under stage 3."""
        copy, tensors = self.build().to(self.device), self.method.state_dict(keep_vars=True)
        for name, tensor in copy.state_dict().items():
            tensor.copy_(self._whole(tensors[name]).view(tensor.shape))
        return copy

    def _whole(self, tensor: Tensor) -> Tensor:
        if not hasattr(tensor, "ds_id"):
            return tensor
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()

    def _link_optimiser_state(self) -> None:
        """Make the state that Adam would make at its first step, and show DeepSpeed whose it is.

        DeepSpeed 0.19 does so after the first group's update, and never learns of the state of the other groups.
        """
        for flat in self._flat_shares():
            self.inner.state[flat] = {part: torch.zeros_like(flat.data) for part in _MOMENTS}
            self.inner.state[flat]["step"] = torch.zeros((), device=flat.device)
        if self.stage < 3:
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flat_shares(self) -> list[Tensor]:
        """What the inner optimiser updates: this process's share of each group."""
        optimiser = self.engine.optimizer
        shares: list[Tensor] = (
            optimiser.fp32_partitioned_groups_flat if self.stage == 3 else optimiser.single_partition_of_fp32_groups
        )
        return shares


def _settings(optim: Optimiser, *, micro_batches: int, processes: int) -> dict[str, Any]:
    """What DeepSpeed must know; its batch sizes are names only, since batches are made by our loader."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "train_batch_size": micro_batches * processes,
        "gradient_clipping": optim.clip_norm,
        "steps_per_print": 10**9,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
