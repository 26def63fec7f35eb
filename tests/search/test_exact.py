"""The nearest rows are those of the plainest computation, in any blocks, with ties and masks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tbps.search.exact import best_among, best_rows


def rows_of(number: int, width: int, *, seed: int = 0) -> NDArray[np.float16]:
    features = np.random.default_rng(seed).standard_normal((number, width))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16)


def in_blocks(features: NDArray[np.float16], edges: list[int]) -> list[tuple[int, NDArray[np.float16]]]:
    return [(first, features[first:last]) for first, last in pairwise(edges)]


def plainly(query: NDArray[np.float64], features: NDArray[np.float16], top: int, allowed: NDArray[np.bool_]) -> list[int]:
    similarity = [float(np.dot(query, row.astype(np.float64))) for row in features]
    order = sorted((row for row in range(len(features)) if allowed[row]), key=lambda row: (-similarity[row], row))
    return order[:top]


@pytest.mark.parametrize("edges", [[0, 500], [0, 1, 200, 500], [0, 256, 500]])
@pytest.mark.parametrize("top", [1, 10, 499, 900])
def test_the_best_rows_are_those_of_a_plain_loop(edges: list[int], top: int) -> None:
    features = rows_of(500, 32)
    features[100], features[400], features[401] = features[7], features[7], features[7]  # ties
    query = rows_of(1, 32, seed=1)[0].astype(np.float64) + features[7].astype(np.float64)
    query /= np.linalg.norm(query)
    allowed = np.random.default_rng(2).random(500) < 0.7
    allowed[[7, 100, 400]] = True
    found, similarity = best_rows(
        torch.from_numpy(query).float(), in_blocks(features, edges), num_rows=500, top=top, allowed_N=allowed
    )
    expected = plainly(query, features, top, allowed)
    assert found.tolist() == expected
    assert [row for row in expected if row in (7, 100, 400)] == [7, 100, 400][: len(expected)]
    assert np.allclose(similarity, features[expected].astype(np.float64) @ query, atol=1e-6)
    among = best_among(torch.from_numpy(query).float(), in_blocks(features, edges), np.flatnonzero(allowed), top=top)
    assert among[0].tolist() == expected and (among[1] == similarity).all()


def test_rows_that_half_precision_cannot_tell_apart_are_in_their_true_order() -> None:
    width = 48
    query = np.full(width, 1 / np.sqrt(width))
    query[1::2] += 2e-5  # less than the rounding of the query
    query /= np.linalg.norm(query)
    features = np.zeros((200, width), np.float16)
    features[:, 0], features[:, 2] = 0.7, 0.7
    better = [150, 60, 20]
    for row in better:
        features[row, 0], features[row, 2], features[row, 1], features[row, 3] = 0, 0, 0.7, 0.7
    found, _ = best_rows(torch.from_numpy(query).float(), [(0, features)], num_rows=200, top=4)
    assert found.tolist() == [20, 60, 150, 0]
    rounded = torch.from_numpy(query).half().double()
    assert rounded[0] == rounded[1]  # so the first pass sees 200 equal rows


def test_nothing_is_found_where_nothing_is_allowed() -> None:
    features = rows_of(20, 8)
    query = torch.from_numpy(features[0]).float()
    assert best_rows(query, [(0, features)], num_rows=20, top=5, allowed_N=np.zeros(20, bool))[0].tolist() == []
    assert best_rows(query, [], num_rows=0, top=5)[0].tolist() == []
    assert best_among(query, [(0, features)], np.zeros(0, np.int64), top=5)[0].tolist() == []
