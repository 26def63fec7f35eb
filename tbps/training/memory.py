"""How much memory a process has used at most."""

from __future__ import annotations

import platform
import resource
import sys

import torch

from tbps.training.distributed import gather_objects


def memory_of_all() -> str:
    """The peaks of all processes, in rank order; call on all."""
    return "; ".join(gather_objects(_peak()))


def peak_gib(device: torch.device) -> float:
    """The most memory that this process has used so far, in GiB: allocated on its GPU, or resident where it has none."""
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident()
    return used / 2**30


def _resident() -> int:
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform != "darwin" else 1)


def _peak() -> str:
    text = f"{platform.node()} {_resident() / 2**20:.0f} MiB"
    if torch.cuda.is_available():
        text += f" and {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB on the GPU"
    return text
