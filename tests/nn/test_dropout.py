"""Dropout: how often, how much is left, which gradient, and on what the masks depend."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor

from tbps.nn.attention import attention
from tbps.nn.dropout import Groups, Site, drop, drop_by_device
from tbps.training.seeds import seed_micro_step

NUM = 400_003  # no multiple of 4: the last random word is used in part
Drop = Callable[[Tensor, Site, Groups], Tensor]
BOTH = pytest.mark.parametrize("dropping", [drop, drop_by_device])


def one(rows: int, number: int = 0) -> Groups:
    return Groups(numbers=(number,), rows=(rows,))


def site(probability: float, key: int = 1) -> Site:
    return Site(probability=probability, key=key)


def correlation(first: Tensor, second: Tensor) -> float:
    """Of two masks, in standard deviations of that of independent ones."""
    first, second = ((mask.double() - mask.double().mean()).flatten() for mask in (first, second))
    return abs((first * second).mean().item()) / (first.std() * second.std()).item() * first.numel() ** 0.5


@BOTH
@pytest.mark.parametrize("probability", [0.1, 0.25, 0.5, 0.9])
def test_share_and_scale(probability: float, dropping: Drop) -> None:
    found = dropping(torch.ones(NUM), site(probability), one(NUM))
    kept = found != 0
    error = 4 * (probability * (1 - probability) / NUM) ** 0.5 + 2**-16
    assert kept.float().mean().item() == pytest.approx(1 - probability, abs=error)
    assert torch.allclose(found[kept], torch.tensor(1 / (1 - probability)), rtol=1e-3)


@BOTH
def test_gradient_passes_where_values_pass(dropping: Drop) -> None:
    x = torch.randn(7, 11, requires_grad=True)
    found = dropping(x, site(0.3), Groups(numbers=(0, 1), rows=(3, 4)))
    found.sum().backward()
    assert x.grad is not None
    assert torch.allclose(found, x * x.grad)
    assert (x.grad == 0).any() and (x.grad != 0).any()


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_type_and_shape_are_kept(dtype: torch.dtype, dropping: Drop) -> None:
    found = dropping(torch.ones(3, 5, 2, dtype=dtype), site(0.5), Groups(numbers=(4, 7), rows=(1, 2)))
    assert (found.shape, found.dtype) == ((3, 5, 2), dtype)


@BOTH
def test_a_group_does_not_know_what_is_computed_beside_it(dropping: Drop) -> None:
    rows, numbers = (2, 5, 1, 4), (3, 4, 9, 10)
    x = torch.ones(12, 7)
    together = dropping(x, site(0.5), Groups(numbers=numbers, rows=rows)).split(rows)
    for found, number in zip(together, numbers, strict=True):
        assert torch.equal(found, dropping(torch.ones_like(found), site(0.5), one(len(found), number)))


def test_nothing_happens_outside_training_or_at_0() -> None:
    x = torch.randn(5)
    state = torch.get_rng_state()
    assert drop(x, Site.next(0.5, training=False), one(5)) is x
    assert drop(x, Site.next(0.0), one(5)) is x
    assert torch.equal(torch.get_rng_state(), state)


# -- independence ----------------------------------------------------------------------------------------------------------


@BOTH
def test_neighbours_are_dropped_independently(dropping: Drop) -> None:
    kept = dropping(torch.ones(NUM), site(0.5), one(NUM)) != 0
    for distance in range(1, 9):
        assert correlation(kept[distance:], kept[:-distance]) < 4


@BOTH
def test_groups_sites_and_steps_are_dropped_independently(dropping: Drop) -> None:
    num, masks = 100_000, []
    for step in range(3):
        seed_micro_step(seed=42, step=step, first_group=0)
        for place in [Site.next(0.3) for _ in range(3)]:
            both = dropping(torch.ones(2 * num), place, Groups(numbers=(step, step + 1), rows=(num, num)))
            masks += list((both != 0).split(num))
    assert max(correlation(*pair) for pair in combinations(masks, 2)) < 4.5  # of 153 pairs


def test_probabilities_are_dropped_independently() -> None:
    """Across keys, queries, heads, sequences: the values are the unit vectors, so that the output is what was kept."""
    sequences, heads, length = 24, 6, 40
    same = torch.zeros(sequences, heads, length, 8)
    values = torch.eye(length).expand(sequences, heads, -1, -1)
    kept_SHQK = attention(same, same, values, site=site(0.2), group=3) != 0
    assert kept_SHQK.float().mean().item() == pytest.approx(0.8, abs=4 * (0.16 / kept_SHQK.numel()) ** 0.5)
    for dimension in range(4):
        for distance in (1, 2, 3, 4):
            rest = kept_SHQK.shape[dimension] - distance
            pair = kept_SHQK.narrow(dimension, 0, rest), kept_SHQK.narrow(dimension, distance, rest)
            assert correlation(*pair) < 4, (dimension, distance)
    for dimension in ((0, 1, 2), (1, 2, 3), (0, 2, 3), (0, 1, 3)):  # as often in each key, sequence, head, query
        share = kept_SHQK.float().mean(dimension)
        assert (share - 0.8).abs().max() < 4.5 * (0.16 * len(share) / kept_SHQK.numel()) ** 0.5, dimension


# -- the place in training -------------------------------------------------------------------------------------------------


def _sites(*, seed: int = 1, step: int = 5, first_group: int = 0) -> list[int]:
    seed_micro_step(seed=seed, step=step, first_group=first_group)
    return [Site.next(0.1).key for _ in range(50)]


def test_sites_are_those_of_the_seed_and_the_step_whatever_the_micro_batch() -> None:
    sites = _sites()
    assert len(set(sites)) == 50
    assert _sites(first_group=7) == sites
    assert not set(sites) & {*_sites(step=6), *_sites(seed=2)}
