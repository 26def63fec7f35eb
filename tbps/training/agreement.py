"""What all processes know of a step: its numbers, and whether somebody asked to stop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tbps.training.stop_signals import INTERRUPT_EXIT, TERMINATE_EXIT

EXITS = (INTERRUPT_EXIT, TERMINATE_EXIT)
"""Exit statuses that a process may be asked for; their counts end the vector that is summed over the processes."""


@dataclass(kw_only=True)
class Agreement:
    """Numbers that are the same on every process. They are copied to the host while the update runs."""

    names: tuple[str, ...]
    not_finite: Tensor
    """On the device: 1.0 if a loss or the gradient norm is not finite, else 0.0."""
    host_X: Tensor
    copied: torch.cuda.Event | None
    num_processes: int

    def read(self) -> tuple[dict[str, float], int]:
        """Wait for the copy. Means of the losses, and `grad_norm`; and the exit status somebody asked for, or 0."""
        if self.copied is not None:
            self.copied.synchronize()
        values: list[float] = self.host_X.tolist()
        numbers = {name: value / self.num_processes for name, value in zip(self.names, values)}
        asked = [exit_status for exit_status, count in zip(EXITS, values[-len(EXITS) :]) if count > 0]
        return numbers, max(asked, default=0)
