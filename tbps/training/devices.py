"""On which device each process trains: chosen, agreed and told before any of them waits for another on the wrong one."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from tbps.training.launch_settings import asks_for_cpu

_COUNTS = ("SLURM_GPUS", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GPUS_PER_SOCKET", "SLURM_GPUS_ON_NODE")
_LISTS = ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS")
_FAREWELL_S = 10.0
ON_THE_CPU = "ACCELERATE_USE_CPU=true, or --accelerate cpu"
"""How a user says that a run is to train on the CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What one process trains on."""

    rank: int
    host: str
    kind: Literal["cuda", "cpu"]
    name: str = "CPU"
    """Of the GPU, such as NVIDIA H100."""
    card: str = ""
    """Which GPU: its UUID."""

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}: {self.name}" + (f" ({self.card})" if self.card else "")


def why_gpus(environment: Mapping[str, str] = os.environ) -> str:
    """Why GPUs are to be expected here; empty where nobody has asked for one or granted one."""
    for name in _LISTS:
        if listed := environment.get(name):
            return f"Slurm granted some ({name}={listed})"
    for name in _COUNTS:
        if environment.get(name, "0").rpartition(":")[2] != "0":
            return f"Slurm granted some ({name}={environment[name]})"
    if visible := environment.get("CUDA_VISIBLE_DEVICES"):
        return f"CUDA_VISIBLE_DEVICES is {visible}"
    # Accelerate's launchers for several GPUs and for DeepSpeed set the one and not the other.
    if "ACCELERATE_MIXED_PRECISION" in environment and "ACCELERATE_USE_CPU" not in environment:
        return "the launch settings ask for some"
    return ""


def choose_device(environment: Mapping[str, str] = os.environ) -> Device:
    """CUDA where there is some, unless the user asks for the CPU.

    ValueError: GPUs were granted or asked for and none is found, or there are more processes here than GPUs.
    """
    rank, local_rank, host = int(environment.get("RANK", "0")), int(environment.get("LOCAL_RANK", "0")), platform.node()
    if asks_for_cpu(environment):
        return Device(rank=rank, host=host, kind="cpu")
    if not torch.cuda.is_available():
        if why := why_gpus(environment):
            raise ValueError(
                f"rank {rank} on {host} finds no GPU, though {why}; look there at nvidia-smi and tbps doctor (it compares"
                f" PyTorch's CUDA with the driver's), or say that you want the CPU ({ON_THE_CPU})"
            )
        return Device(rank=rank, host=host, kind="cpu")
    if local_rank >= (count := torch.cuda.device_count()):
        raise ValueError(
            f"rank {rank} is process {local_rank + 1} on {host}, which shows it {count} GPUs; start one process per GPU"
            " (Slurm: --ntasks-per-node and --gpus-per-node; accelerate: --num_processes)"
        )
    found = torch.cuda.get_device_properties(local_rank)
    return Device(rank=rank, host=host, kind="cuda", name=found.name, card=str(getattr(found, "uuid", f"GPU {local_rank}")))


def meet(patience: timedelta) -> tuple[Device, Store | None]:
    """This process's device, once all processes have told theirs. The store is to be kept until the process group is made.

    ValueError, the same on all: a process has no device, or they do not fit together. DistStoreError: one did not come.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return choose_device(), None
    failure, device = "", None
    try:
        device = choose_device()
    except ValueError as error:
        failure = str(error)
    store = agree(device or failure, patience)
    assert device is not None, "its failure was raised on all"
    return device, store


def agree(own: Device | str, patience: timedelta) -> Store:
    """Tell all others, over the store where they will form their group, what this process trains on, or why it cannot."""
    store, rank, world_size = next(iter(rendezvous("env://", timeout=patience)))
    store.set(f"device/{rank}", json.dumps(own if isinstance(own, str) else asdict(own)))
    told = []
    for other in range(world_size):
        try:
            told.append(json.loads(store.get(f"device/{other}")))
        except dist.DistStoreError as error:
            waited_s = patience.total_seconds()
            raise dist.DistStoreError(f"rank {other} did not come within {waited_s:g} s to tell its device") from error
    failures = [entry for entry in told if isinstance(entry, str)]
    failure = failures[0] if failures else why_unfit([Device(**entry) for entry in told])
    if failure:
        _part(store, rank, world_size)
        raise ValueError(failure)
    return store  # type: ignore[no-any-return]


def why_unfit(devices: Sequence[Device]) -> str:
    """Why processes cannot train together on these; empty where they can."""
    first = devices[0]
    for device in devices:
        if device.kind != first.kind:
            return (
                f"rank {device.rank} on {device.host} trains on {device.name}, rank {first.rank} on {first.host} on"
                f" {first.name}; look at nvidia-smi on the host without GPU, or say that you want the CPU"
                f" on all ({ON_THE_CPU})"
            )
    seen: dict[tuple[str, str], Device] = {}
    for device in devices:
        other = seen.setdefault((device.host, device.card), device)
        if device.card and other is not device:
            return (
                f"ranks {other.rank} and {device.rank} on {device.host} use the same GPU ({device.name}, {device.card});"
                " start one process per GPU"
            )
    return ""


def _part(store: Store, rank: int, world_size: int) -> None:
    """The first process is the store: it stays until all others have read."""
    store.set(f"device/{rank}/read", "")
    deadline = time.monotonic() + _FAREWELL_S
    while rank == 0 and time.monotonic() < deadline:
        if store.check([f"device/{other}/read" for other in range(world_size)]):
            return
        time.sleep(0.05)
