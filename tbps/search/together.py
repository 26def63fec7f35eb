"""What the processes of one indexing tell each other: the first one lists and writes for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from tbps.evaluation.ranks import Ranks

T = TypeVar("T")


def share_of_first(function: Callable[[], T], ranks: Ranks) -> T:
    """Call on the first process, return its result on all. What a user can cause there ends the call on all."""
    if ranks.size == 1:
        return function()
    box: list[object] = [None, None]
    failure: ValueError | OSError | None = None
    if ranks.rank == 0:
        try:
            box = [function(), None]
        except (ValueError, OSError) as error:
            failure, box = error, [None, str(error)]
    dist.broadcast_object_list(box)
    if failure is not None:
        raise failure
    if box[1] is not None:
        raise ValueError(f"the first process failed: {box[1]}")
    return box[0]  # type: ignore[return-value]


def gather_to_first(value: T, ranks: Ranks) -> list[T]:
    """The values of all processes in rank order, on the first; nothing on the others."""
    if ranks.size == 1:
        return [value]
    values: list[T | None] | None = [None] * ranks.size if ranks.rank == 0 else None
    dist.gather_object(value, values)
    return values or []  # type: ignore[return-value]
