"""The nearest rows of a feature, exactly: a product with all in half precision, then the best ones once more in single.

Shapes: N rows, E features, K best.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_HALF_ERROR = 2e-3
"""More than a similarity of unit vectors in half precision can be off: the rounding of the query (2^-11) and of the sum."""
_CANDIDATES = 100_000
"""Rows that are computed once more at a time; their single precision would fill the memory."""


def similarities(query_E: Tensor, blocks: Iterable[tuple[int, NDArray[np.float16]]], num_rows: int) -> Tensor:
    """(N,) float32 similarity of every row, off by less than `_HALF_ERROR`. blocks: first rows and features.

    Half-precision features are read once, from the system's cache of the file, and never copied: 512 MB of 10^6 rows of 256.
    """
    half_E = query_E.to(torch.float16)
    similarity_N = torch.zeros(num_rows)
    for first, features in blocks:
        similarity_N[first : first + len(features)] = torch.mv(_tensor(features), half_E)
    return similarity_N


def best_rows(
    query_E: Tensor,
    blocks: Iterable[tuple[int, NDArray[np.float16]]],
    *,
    num_rows: int,
    top: int,
    allowed_N: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `top` rows with the highest similarity, and it: (K,) each, highest first; of equals the lower row first.

    What is returned is computed in single precision, and what is left out is lower than all of it: half precision only
    chooses whom to compute. query_E (E,) float32, at most of unit length; allowed_N: rows that may be found, None = all.
    """
    blocks = list(blocks)
    rough_N = similarities(query_E, blocks, num_rows)
    if allowed_N is not None:
        rough_N = rough_N.masked_fill(~torch.from_numpy(allowed_N), -torch.inf)
    top = min(top, num_rows if allowed_N is None else int(allowed_N.sum()))
    if top < 1:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    return _best(query_E, blocks, torch.nonzero(rough_N >= _least(rough_N, top))[:, 0].numpy(), top)


def best_among(
    query_E: Tensor, blocks: Sequence[tuple[int, NDArray[np.float16]]], row_M: NDArray[np.int64], *, top: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """As `best_rows`, of M rows alone, which ascend. 8,000 of a million rows take two milliseconds."""
    top = min(top, len(row_M))
    if top < 1:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    half_E = query_E.to(torch.float16)
    parts = [torch.mv(_tensor(features).index_select(0, inside), half_E) for features, inside in _inside(blocks, row_M)]
    rough_M = torch.cat(parts).float()
    return _best(query_E, blocks, row_M[(rough_M >= _least(rough_M, top)).numpy()], top)


def _least(rough_M: Tensor, top: int) -> float:
    """No row whose rough similarity is lower is among the best `top`."""
    return float(torch.topk(rough_M, top).values[-1]) - 2 * _HALF_ERROR


def _best(
    query_E: Tensor, blocks: Iterable[tuple[int, NDArray[np.float16]]], row_M: NDArray[np.int64], top: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    similarity_M = _exactly(query_E, blocks, row_M)
    order = np.argsort(-similarity_M, kind="stable")[:top]
    return row_M[order], similarity_M[order]


def _exactly(
    query_E: Tensor, blocks: Iterable[tuple[int, NDArray[np.float16]]], row_M: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(M,) similarities of some rows, ascending, in single precision."""
    parts = [np.zeros(0, np.float32)]
    for features, inside in _inside(blocks, row_M):
        for some in inside.split(_CANDIDATES):
            chosen = _tensor(features).index_select(0, some).float()
            # Row by row: a product's last bits depend on what else is in it, and equal rows must stay equal.
            parts.append((chosen * query_E).sum(1).numpy())
    return np.concatenate(parts)


def _inside(
    blocks: Iterable[tuple[int, NDArray[np.float16]]], row_M: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.float16], Tensor]]:
    """The blocks in which some of M ascending rows lie, each with where they do."""
    for first, features in blocks:
        inside = row_M[np.searchsorted(row_M, first) : np.searchsorted(row_M, first + len(features))] - first
        if len(inside):
            yield features, torch.from_numpy(inside)


def _tensor(features: NDArray[np.float16]) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # that what is mapped cannot be written
        return torch.from_numpy(features)
