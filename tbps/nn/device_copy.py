"""Tensors that travel from the host to the device while the host goes on; tbps/nn/host_copy.py is the way back."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """A host tensor on `device`, by a copy that the host does not wait for: from page-locked memory on a GPU.

    Copied from other memory, it would wait until the driver has laid it somewhere else. What is pinned already is not pinned
    again. Change `host` no more: the copy may be made later.
    """
    if device.type == "cuda" and host.device.type == "cpu":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)
