"""Which sequences are padded together in self-attention, so that short ones are not padded to the longest of all.

Shapes: S sequences, each of Q computed queries and L tokens; C candidate places of a cut.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

_Index = NDArray[np.int64]

_QUANTILES, _JUMPS = 8, 4
"""Candidate places of a cut: at equal numbers of sequences, and where lengths jump most."""
_COPIED_QUERIES = 16
"""Queries whose attention costs what it costs to bring a token into the padded view and back (ours, measured roughly)."""
_BUCKET_COST = {"cpu": 3_000, "cuda": 400_000}
"""What one more bucket costs, in (query, key) places that the device would work through instead: some twenty small kernels,
forward and backward (ours, measured roughly)."""


def buckets(queries_S: _Index, tokens_S: _Index, *, device_type: str) -> list[_Index]:
    """The sequences that have queries, in up to three buckets by length: numbers of sequences, shorter ones first.

    The cuts make padded area plus a cost for each bucket the least. They depend on these sequences and the kind of device
    alone.
    """
    order = np.lexsort((tokens_S, queries_S))
    order = order[int(np.searchsorted(queries_S[order], 1)) :]
    if not len(order):
        return []
    jumps = np.diff(tokens_S[order] * (queries_S[order] + _COPIED_QUERIES))
    edges = np.unique(
        np.concatenate(
            [np.linspace(0, len(order), _QUANTILES + 1).astype(np.int64), 1 + np.argsort(np.abs(jumps))[-_JUMPS:]]
        )
    )
    queries_C, tokens_C = (np.maximum.reduceat(x[order], edges[:-1]) for x in (queries_S, tokens_S))
    sizes = edges[None, :] - edges[:, None]
    area = sizes[:-1, 1:] * _largest(tokens_C) * (_largest(queries_C) + _COPIED_QUERIES)
    cost = np.zeros(sizes.shape)
    cost[:-1, 1:] = area + _BUCKET_COST.get(device_type, _BUCKET_COST["cuda"])
    cost[sizes < 0] = np.inf
    cost[sizes == 0] = 0
    total = cost[0, :, None] + cost + cost[None, :, -1]
    first, second = np.unravel_index(int(total.argmin()), total.shape)
    cuts = np.unique([0, edges[first], edges[second], len(order)])
    return [np.sort(order[start:end]) for start, end in pairwise(cuts)]


def _largest(value_C: _Index) -> _Index:
    """(C, C): at [i, j] the largest of the values from i to j."""
    return np.maximum.accumulate(np.triu(np.broadcast_to(value_C, (len(value_C), len(value_C)))), axis=1)
