"""Processes of a run: starting them through Accelerate, sharing a batch, and doing something on one for all."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
    is_deepspeed_available,
)

from tbps.config.loop import Loop
from tbps.data.worker_processes import WorkerLost
from tbps.training.devices import choose_device, meet
from tbps.training.launch_settings import asks_for_cpu, uses_zero, zero_stage
from tbps.training.precision import keep_few_kernels, keep_float32
from tbps.training.waiting import shown_work, wait_for_work

logger = logging.getLogger(__name__)

T = TypeVar("T")


def start_processes(loop: Loop) -> Accelerator:
    """The Accelerator of this process, on the device of `devices.choose_device`; DDP where a launcher started several.

    ZeRO where the launcher says so (`accelerate launch --config_file launch/accelerate/zero2.yaml`).
    ValueError: fewer processes than asked for, ZeRO without DeepSpeed, devices that are missing or do not fit together.
    """
    _check_launch()
    # Who is lost is found by tbps/training/peers.py. A collective's clock runs on while everybody is stopped (a suspended
    # job), which is no loss; what hangs behind a living watch is left to it.
    patience = timedelta(seconds=2 * loop.timeout_s)
    device, store = meet(patience)
    cpu = device.kind == "cpu"
    if asks_for_cpu():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for every library, and for loader workers
    keep_float32()
    keep_few_kernels()
    zero = uses_zero()
    if zero:
        os.environ.pop("ACCELERATE_USE_CPU", None)  # would switch DeepSpeed off
        _prepare_deepspeed(cpu=cpu)
    # Buffers are not broadcast: every rank pushes the same features to its queue. Gradients live in the buckets that are
    # reduced, which saves a copy of all of them.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    group = InitProcessGroupKwargs(timeout=patience)
    if zero and cpu:  # Accelerate believes in one process there, unless the backend is named
        group.backend = "gloo"
    accelerator = Accelerator(
        cpu=cpu and not zero,  # true would switch DeepSpeed off
        # Under ZeRO weights stay float32, and the method does the autocast (tbps/training/zero.py).
        mixed_precision="bf16" if loop.precision == "bf16" and not zero else "no",
        kwargs_handlers=[ddp, group],
    )
    del store  # the group, made over it, keeps it
    return accelerator


def announce_devices() -> None:
    """Log every process with its device, what they talk over, and the stage of ZeRO if there is one."""
    backend = dist.get_backend() if _are_several() else "one process"
    zero = f", ZeRO-{zero_stage()}" if uses_zero() else ""
    for device in gather_objects(choose_device()):
        logger.info("%s, %s%s", device, backend, zero)


def _prepare_deepspeed(*, cpu: bool) -> None:
    if not is_deepspeed_available():
        raise ValueError("ZeRO needs DeepSpeed, which is not installed: pip install deepspeed, or launch without ZeRO")
    if "LOCAL_RANK" not in os.environ:
        raise ValueError("ZeRO was asked for without a launcher: start with accelerate launch, torchrun or launch.submit")
    if cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed.ops

        # A faster sum inside one host, compiled at the first start: a start killed meanwhile leaves a lock behind on which
        # all later ones would wait for ever.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


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


class FailedOnMain(Exception):
    """What all others raise where the first process raised an exception that no user causes; its traceback is there."""


def on_main(function: Callable[[], T], *, doing: str = "working for all") -> T:
    """Call on the first process, return its result on all. Whatever it raises there ends the call on all.

    The others wait as long as the first one gets on (see tbps/training/waiting.py); doing: says for what. They raise a
    ValueError, OSError, SystemExit, WorkerLost or DistStoreError of the same words, `errno`, file names and exit status;
    for any other exception FailedOnMain.
    """
    if not _are_several():
        return function()
    box: list[object] = [None, None]
    if dist.get_rank() == 0:
        try:
            with shown_work(doing):
                box = [function(), None]
        except BaseException as error:
            with suppress(RuntimeError):  # of a collective: the others have ended first
                broadcast_object_list([None, _told(error)])
            raise
    else:
        wait_for_work(0)
    result, error_of_main = broadcast_object_list(box)
    if isinstance(error_of_main, _Told):
        raise error_of_main.error()
    return result  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Told:
    """An exception as another process can be told of it. Rebuilt by its own class, many fail or say something else."""

    kind: type[Exception] | type[SystemExit]
    arguments: tuple[object, ...]

    def error(self) -> BaseException:
        return self.kind(*self.arguments)


def _told(error: BaseException) -> _Told:
    for accident in (WorkerLost, dist.DistStoreError):  # whoever hears of it goes on later, too
        if isinstance(error, accident):
            return _Told(kind=accident, arguments=(str(error),))
    if isinstance(error, OSError):
        # OSError finds the class of an errno by itself, FileNotFoundError for 2.
        arguments = (error.errno, error.strerror, error.filename, None, error.filename2)
        known = error.errno is not None and str(OSError(*arguments)) == str(error)
        return _Told(kind=OSError, arguments=arguments if known else (str(error),))
    if isinstance(error, ValueError):
        return _Told(kind=ValueError, arguments=(str(error),))
    if isinstance(error, SystemExit):
        return _Told(kind=SystemExit, arguments=(error.code if isinstance(error.code, int | None) else 1,))
    return _Told(kind=FailedOnMain, arguments=(f"the first process failed with {type(error).__name__}: {error}",))


@dataclass(frozen=True, kw_only=True, slots=True)
class Team:
    """The processes of a run, of which this is number `rank` of `size`."""

    rank: int
    size: int

    @classmethod
    def current(cls) -> Team:
        """Of the default process group; 0 of 1 where there is none."""
        return cls(rank=dist.get_rank(), size=dist.get_world_size()) if _are_several() else cls(rank=0, size=1)

    def together(self, function: Callable[[], T], *, doing: str) -> list[T]:
        """Call on every process, return all results in rank order. `function` may take long, and uses no collective.

        A ValueError or OSError of this process's call is raised; of another's, a ValueError that names it.
        """
        if self.size == 1:
            return [function()]
        done: tuple[T | None, str] = (None, "")
        own: ValueError | OSError | None = None
        try:
            with shown_work(doing):
                done = (function(), "")
        except (ValueError, OSError) as error:
            own, done = error, (None, str(error) or type(error).__name__)
        for rank in range(self.size):
            if rank != self.rank:
                wait_for_work(rank)
        everywhere = gather_objects((platform.node(), done))
        if own is not None:
            raise own
        for rank, (host, (_, failure)) in enumerate(everywhere):
            if failure:
                raise ValueError(f"rank {rank} on {host} failed while {doing}: {failure}")
        return [result for _, (result, _) in everywhere]  # type: ignore[misc]


def gather_objects(value: T) -> list[T]:
    """The values of all processes, in rank order."""
    if not _are_several():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def sum_over_processes(vector: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, in place."""
    if _are_several():
        dist.all_reduce(vector)
    return vector


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
