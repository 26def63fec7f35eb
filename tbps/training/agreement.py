"""What all processes know of a step: its numbers, and whether somebody asked to stop."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tbps.nn.host_copy import HostCopy
from tbps.training.stop_signals import INTERRUPT_EXIT, TERMINATE_EXIT

EXITS = (INTERRUPT_EXIT, TERMINATE_EXIT)
"""Exit statuses that a process may be asked for; how many processes were stands in the vector that is summed over them."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """What all processes have agreed on, as means over them."""

    data_wait_s: float
    """Seconds that a process waited for pairs in this step."""
    losses: dict[str, float]
    """"loss/<name>" of each loss, "loss" and "grad_norm": all finite, or the update was not applied."""
    numbers: dict[str, float]
    """What the method tells the log beside its losses, by its own names; may be not finite."""
    exit_status: int
    """That some process was asked for, or 0."""
    memory_gib: float
    """The most memory that any process has told, in GiB; the one value here that is no mean. 0: none was told."""


@dataclass(kw_only=True)
class Agreement:
    """Numbers that are the same on every process. They are copied to the host while the update runs."""

    names: tuple[str, ...]
    """Of the losses, and `grad_norm`."""
    number_names: tuple[str, ...]
    """Of what the method tells the log beside its losses."""
    not_finite: Tensor
    """On the device: 1.0 if a loss or the gradient norm is not finite, else 0.0."""
    sum_X: HostCopy
    """Sums over the processes: values of `names`, counts for `EXITS`, seconds waited for pairs, values of
    `number_names`, and the memory of each process, which all others left at 0."""
    num_processes: int

    def read(self) -> Read:
        """Wait for the copy."""
        values: list[float] = self.sum_X.wait().tolist()
        asked_from = len(self.names)
        waited_at = asked_from + len(EXITS)
        memory_from = len(values) - self.num_processes
        asked = [exit_status for exit_status, count in zip(EXITS, values[asked_from:waited_at]) if count > 0]
        return Read(
            data_wait_s=values[waited_at] / self.num_processes,
            losses=self._means(self.names, values[:asked_from]),
            numbers=self._means(self.number_names, values[waited_at + 1 : memory_from]),
            exit_status=max(asked, default=0),
            memory_gib=max(values[memory_from:]),
        )

    def _means(self, names: tuple[str, ...], sums: list[float]) -> dict[str, float]:
        return {name: value / self.num_processes for name, value in zip(names, sums, strict=True)}
