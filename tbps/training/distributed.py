"""Processes of a run: starting them through Accelerate, sharing a batch, and doing something on one for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list

from tbps.config.run import Loop

T = TypeVar("T")


def start_processes(loop: Loop) -> Accelerator:
    """The Accelerator of this process: CUDA where there is some, else CPU; DDP where a launcher started several.

    Buffers are not broadcast: every rank pushes the same features to its queue. Every trainable parameter gets a gradient.
    """
    _check_launch()
    # Gradients live in the buckets that are reduced, which saves a copy of all of them.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if loop.precision == "bf16" else "no",
        kwargs_handlers=[ddp],
    )


def _check_launch() -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process: it sets an address, but no world size."""
    environment = os.environ
    started_by_accelerate = "ACCELERATE_USE_CPU" in environment or "ACCELERATE_MIXED_PRECISION" in environment
    if started_by_accelerate and "MASTER_ADDR" in environment and "WORLD_SIZE" not in environment:
        raise ValueError(
            "accelerate launch was asked for several processes and started only one, as it does with --cpu;"
            ' start them with "torchrun --nproc_per_node N ...", or ask for one'
        )


def leave_processes() -> None:
    """Part in good order at the end of a run; without it, libraries complain at exit."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def on_main(function: Callable[[], T]) -> T:
    """Call on the first process, return its result on all. A ValueError or OSError there is raised on all."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return function()
    box: list[object] = [None, None]
    if dist.get_rank() == 0:
        try:
            box = [function(), None]
        except (ValueError, OSError) as error:
            box = [None, error]
    if dist.get_rank() == 0 and isinstance(box[1], Exception):
        original = box[1]
        broadcast_object_list([None, type(original)(str(original))])
        raise original
    result, error_of_main = broadcast_object_list(box)
    if isinstance(error_of_main, Exception):
        raise error_of_main
    return result  # type: ignore[return-value]


def gather_objects(value: T) -> list[T]:
    """The values of all processes, in rank order."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def sum_over_processes(vector: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, in place."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(vector)
    return vector
