"""What a run is made of besides its config: objects that the loop is handed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from tbps.data.batch import HostBatch
from tbps.methods.method import Method

Evaluate = Callable[[Method, int], dict[str, float]]
"""evaluate(method, step) on every process, in evaluation mode, without gradients; `rank_1` and `mAP` among the results.

What the first process returns counts. A killed evaluation is done again from its start."""

Mfu = Callable[[float], float | None]
"""mfu(pairs a second of one GPU): which share of the GPU's arithmetic that is; None = not known, or not yet."""


class Batches(Protocol):
    """The micro-batches of one process, in order."""

    micro_batches_per_step: int

    def __iter__(self) -> Iterator[HostBatch]:
        """`micro_batches_per_step` for each step."""


class MakeBatches(Protocol):
    """Makes the micro-batches of `num_steps` steps from `start_step` on: the same as if training had never stopped."""

    def __call__(self, *, start_step: int, num_steps: int, rank: int, world_size: int) -> Batches:
        """ValueError where a batch cannot be shared evenly."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Objects of one run."""

    build: Callable[[], Method]
    """Makes the method with random weights."""
    num_pairs: int
    """Pairs of the training split."""
    make_batches: MakeBatches
    validate: Evaluate | None = None
    """Scores the val split; None where there is none."""
    test: Evaluate | None = None
    """Scores the test split, once, with the selected weights."""
    mfu: Mfu | None = None
    """Asked on the first process at each line of progress; None = nobody knows the card."""
