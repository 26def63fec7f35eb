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


def _peak() -> str:
    # Linux counts in KiB, macOS in bytes.
    scale = 1024 if sys.platform != "darwin" else 1
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    text = f"{platform.node()} {host / 2**20:.0f} MiB"
    if torch.cuda.is_available():
        text += f" and {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB on the GPU"
    return text
