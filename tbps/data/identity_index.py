"""Which pairs are of one identity."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


class IdentityIndex:
    """The pairs of each identity."""

    def __init__(self, identity_N: NDArray[np.int64]) -> None:
        self._pair_N = np.argsort(identity_N, kind="stable")
        counts = np.bincount(identity_N) if len(identity_N) else np.zeros(0, dtype=np.int64)
        self._start = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])

    def pairs(self, identity: int) -> NDArray[np.int64]:
        """Pair numbers of `identity`, ascending."""
        return self._pair_N[self._start[identity] : self._start[identity + 1]]


class StoredIdentities:
    """The same for pairs whose order by identity is stored: found by halving, so nothing is kept in memory."""

    def __init__(self, num_stored: int, *, identity: Callable[[int], int], pair_at: Callable[[int], int]) -> None:
        """identity: of a pair; pair_at: the pair at a place of the order by (identity, pair), of `num_stored` places."""
        self._places, self._identity, self._pair_at = range(num_stored), identity, pair_at

    def pairs(self, identity: int, *, below: int) -> NDArray[np.int64]:
        """Pair numbers of `identity` that are smaller than `below`, ascending."""
        first = bisect_left(self._places, identity, key=self._identity_at)
        last = bisect_right(self._places, identity, lo=first, key=self._identity_at)
        found = np.array([self._pair_at(place) for place in range(first, last)], dtype=np.int64)
        return found[found < below]

    def _identity_at(self, place: int) -> int:
        return self._identity(self._pair_at(place))
