"""Which pairs are of one identity."""

from __future__ import annotations

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
