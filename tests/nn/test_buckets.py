"""Buckets by length: everything once, short ones apart where that pays, the same answer whatever else is laid out."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tbps.nn.buckets import buckets

COST, COPIED = 3_000, 16


def area(queries: np.ndarray, tokens: np.ndarray, parts: list[np.ndarray]) -> int:
    return sum(COST + len(part) * tokens[part].max() * (queries[part].max() + COPIED) for part in parts)


@pytest.mark.parametrize("seed", range(4))
def test_every_sequence_with_queries_is_in_one_bucket(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 70, 90)
    queries = np.minimum(tokens, rng.integers(0, 5, 90))
    found = buckets(queries, tokens, device_type="cpu")
    assert 1 <= len(found) <= 3
    assert sorted(np.concatenate(found).tolist()) == np.flatnonzero(queries).tolist()
    assert all((np.diff(part) > 0).all() for part in found)  # in the order they were given


def test_cuts_are_those_of_least_area() -> None:
    """Eight sequences, so that every place is a candidate: no other one or two cuts are better."""
    for seed in range(6):
        tokens = np.sort(np.random.default_rng(seed).integers(1, 200, 8))
        found = buckets(tokens, tokens, device_type="cpu")
        ways = [
            [part for part in np.split(np.arange(8), cuts) if len(part)]
            for number in range(3)
            for cuts in combinations(range(1, 8), number)
        ]
        assert area(tokens, tokens, found) == min(area(tokens, tokens, parts) for parts in ways)


def test_short_and_long_sequences_part_and_like_ones_do_not() -> None:
    mixed = np.array([4] * 60 + [40] * 30)
    assert [len(part) for part in buckets(mixed, mixed, device_type="cpu")] == [60, 30]
    equal = np.full(90, 40)
    assert len(buckets(equal, equal, device_type="cpu")) == 1
    few = np.array([3, 9, 4])
    assert len(buckets(few, few, device_type="cpu")) == 1  # another kernel costs more than this padding
    # A GPU computes the padding faster than it starts more kernels, until there is a lot of it.
    assert len(buckets(mixed, mixed, device_type="cuda")) == 1
    assert len(buckets(np.tile(mixed, 60), np.tile(mixed, 60), device_type="cuda")) == 2


def test_class_tokens_alone_part_from_whole_captions() -> None:
    tokens, queries = np.full(80, 30), np.array([1] * 48 + [30] * 32)
    assert [part.tolist() for part in buckets(queries, tokens, device_type="cpu")] == [[*range(48)], [*range(48, 80)]]


def test_nothing_is_read() -> None:
    assert buckets(np.zeros(5, np.int64), np.ones(5, np.int64), device_type="cpu") == []
