"""What an error of CUDA or NCCL means: an accident of the node, to go on from elsewhere, or a launch that cannot work."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass

import torch

from tbps.training.stop_signals import LOST_EXIT

USER_EXIT = 2

# More processes than GPUs, or two on one.
_OF_THE_LAUNCH = re.compile(r"duplicate gpu detected|invalid device ordinal", re.I)
# These come again on every node: too little memory, a bug, a PyTorch that was built for other cards.
_COMES_AGAIN = re.compile(
    r"out of memory|device-side assert|no kernel image|invalid (argument|configuration|resource handle)|not supported"
    r"|driver version is insufficient",
    re.I,
)
_OF_THE_NODE = re.compile(
    r"CUDA error|CUDA failure|uncorrectable ECC|\bXid\b|unspecified launch failure|busy or unavailable"
    r"|cudaErrorDevicesUnavailable|fallen off the bus|unhandled cuda error"
    r"|(CUBLAS|CUDNN)_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)",
    re.I,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What to do about an error."""

    status: int
    """Exit status: LOST_EXIT where the same command goes on, USER_EXIT where the user has to change something."""
    sentence: str


def verdict_of(error: BaseException) -> Verdict | None:
    """None: no error of a device, or one that says all itself (out of memory, a bug)."""
    if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
        return None
    text, rank, host = str(error), os.environ.get("RANK", "0"), platform.node()
    if _OF_THE_LAUNCH.search(text):
        sentence = f"rank {rank} on {host} has no GPU of its own ({_line(_OF_THE_LAUNCH, text)}); start one process per GPU"
        return Verdict(status=USER_EXIT, sentence=sentence)
    if _COMES_AGAIN.search(text) or not _OF_THE_NODE.search(text):
        return None
    sentence = f"rank {rank} on {host}: {_line(_OF_THE_NODE, text)}"
    return Verdict(
        status=LOST_EXIT,
        sentence=f"{sentence}; its GPU or node is at fault, the same command goes on from the last checkpoint (if it comes"
        f" again: sbatch --exclude={host})",
    )


def _line(pattern: re.Pattern[str], text: str) -> str:
    return next(line.strip() for line in text.splitlines() if pattern.search(line))
