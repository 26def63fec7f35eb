"""How long a step waited for its pairs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class TimedBatches(Generic[T], Iterator[T]):
    """The batches of an iterator, and for how long they were waited for."""

    def __init__(self, batches: Iterator[T]) -> None:
        self._batches = batches
        self._waited_s = 0.0

    def __next__(self) -> T:
        began = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self._waited_s += time.perf_counter() - began

    def take_waited_s(self) -> float:
        """Seconds of waiting since this was last asked."""
        waited_s, self._waited_s = self._waited_s, 0.0
        return waited_s
