"""A small tensor on its way from the device to the host: waited for only once other work has been queued behind it."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """The copy starts when this is made; `wait` blocks on an event, never on an operator."""

    def __init__(self, on_device: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = on_device
        if on_device.device.type == "cuda":
            self._host = torch.empty(on_device.shape, dtype=on_device.dtype, pin_memory=True)
            self._host.copy_(on_device, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> Tensor:
        """Block until the copy is there."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
