"""Which way a method is spread over the processes: DDP, or ZeRO where the launcher asked for it."""

from __future__ import annotations

from collections.abc import Callable

from accelerate import Accelerator

from tbps.config.run import Run
from tbps.methods.method import Method
from tbps.training.data_parallel import DataParallel, Parallel
from tbps.training.importing import importing


def spread(
    method: Method, run: Run, accelerator: Accelerator, *, micro_batches: int, build: Callable[[], Method]
) -> Parallel:
    """Wrap a method whose weights are loaded. `build` makes another one with the same members."""
    with importing():  # DeepSpeed brings PyTorch's compiler, used or not
        if accelerator.deepspeed_plugin is None:
            return DataParallel(accelerator, method, run.optim)
        from tbps.training.zero import Zero

        return Zero(accelerator, method, run, micro_batches=micro_batches, build=build)
