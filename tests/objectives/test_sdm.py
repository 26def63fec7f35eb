"""Similarity distribution matching against a double loop, at its two known points, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tbps.objectives.sdm import identity_distribution, similarity_distribution_matching

IDENTITY = torch.tensor([7, 3, 7, 5, 3, 7])


def features(seed: int, *, pairs: int = 6, width: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, caption = F.normalize(torch.randn(2, pairs, width, generator=generator, dtype=torch.float64), dim=-1)
    return image, caption


def naive(image: Tensor, caption: Tensor, *, scale: float, eps: float) -> float:
    total = 0.0
    for rows, columns in ((image, caption), (caption, image)):
        for i in range(len(rows)):
            weight = [math.exp(scale * float(rows[i] @ column)) for column in columns]
            same = [float(IDENTITY[i] == other) for other in IDENTITY]
            for j in range(len(columns)):
                p, y = weight[j] / sum(weight), same[j] / sum(same)
                total += p * (math.log(p) - math.log(y + eps)) / len(rows)
    return total


def test_the_example_of_the_docstring() -> None:
    rows = identity_distribution(torch.tensor([0, 0, 1]))
    assert rows.tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]


@pytest.mark.parametrize(("scale", "eps"), [(50.0, 1e-8), (3.0, 1e-8), (3.0, 1e-2)])
def test_equals_a_double_loop(scale: float, eps: float) -> None:
    image, caption = features(1)
    found = similarity_distribution_matching(image, caption, IDENTITY, logit_scale=scale, eps=eps)
    assert found.item() == pytest.approx(naive(image, caption, scale=scale, eps=eps), rel=1e-5)


def test_probability_on_another_identity_costs_18_nats() -> None:
    rows = torch.eye(2)
    found = similarity_distribution_matching(rows, rows.flip(0), torch.tensor([0, 1]), logit_scale=1000.0)
    assert found.item() == pytest.approx(2 * -math.log(1e-8), rel=1e-5)


def test_zero_features_spread_over_all() -> None:
    zero = torch.zeros(6, 4)
    target = (identity_distribution(IDENTITY).double() + 1e-8).log()
    expected = 2 * (-math.log(6) - target).mean(1).mean().item()
    assert similarity_distribution_matching(zero, zero, IDENTITY).item() == pytest.approx(expected, rel=1e-5)


def test_perfect_features_cost_nothing() -> None:
    rows = F.one_hot(torch.tensor([0, 1, 0, 2, 1, 0]), 3).float()
    assert similarity_distribution_matching(rows, rows, IDENTITY).item() == pytest.approx(0, abs=1e-5)


def test_gradient() -> None:
    given = tuple(part.requires_grad_() for part in features(2))
    assert torch.autograd.gradcheck(lambda v, t: similarity_distribution_matching(v, t, IDENTITY, logit_scale=3.0), given)


def test_autocast_does_not_round_the_similarities() -> None:
    image, caption = (part.float() for part in features(1))
    expected = similarity_distribution_matching(image, caption, IDENTITY)
    with torch.autocast("cpu", torch.bfloat16):
        assert similarity_distribution_matching(image, caption, IDENTITY).item() == expected.item()
