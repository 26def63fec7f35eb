"""A small tensor is copied from the device to the CPU while the device goes on.

Call `wait()` as late as possible: what was queued until then keeps the device busy while the CPU waits.
"""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """The copy starts when this is made; `wait` blocks until it is there, and for nothing that was queued after it."""

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
