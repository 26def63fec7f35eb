"""Dropout: how often, how much is left, which gradient."""

from __future__ import annotations

import pytest
import torch

from tbps.nn.dropout import drop

NUM = 400_003  # no multiple of 4: the last random word is used in part


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.5, 0.9])
def test_share_and_scale(probability: float) -> None:
    torch.manual_seed(0)
    found = drop(torch.ones(NUM), probability)
    kept = found != 0
    error = 4 * (probability * (1 - probability) / NUM) ** 0.5 + 2**-16
    assert kept.float().mean().item() == pytest.approx(1 - probability, abs=error)
    assert torch.allclose(found[kept], torch.tensor(1 / (1 - probability)), rtol=1e-3)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (drop(torch.ones(NUM), 0.5) != 0).float() - 0.5
    for distance in range(1, 9):
        assert abs((kept[distance:] * kept[:-distance]).mean().item()) < 0.25 * 4 / NUM**0.5


def test_gradient_passes_where_values_pass() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 11, requires_grad=True)
    found = drop(x, 0.3)
    found.sum().backward()
    assert x.grad is not None
    assert torch.allclose(found, x * x.grad)
    assert (x.grad == 0).any() and (x.grad != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_type_and_shape_are_kept(dtype: torch.dtype) -> None:
    found = drop(torch.ones(3, 5, 2, dtype=dtype), 0.5)
    assert (found.shape, found.dtype) == ((3, 5, 2), dtype)


def test_the_same_seed_drops_the_same_entries() -> None:
    outcomes = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        outcomes.append(drop(torch.ones(1000), 0.5))
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


def test_nothing_happens_outside_training_or_at_0() -> None:
    x = torch.randn(5)
    assert drop(x, 0.5, False) is x
    assert drop(x, 0.0) is x
