"""Image-text matching against a loop over MARS Eq. 2, with rows that have no negative."""

from __future__ import annotations

import math

import pytest
import torch
from finite_differences import FLOAT32
from torch import Tensor

from tbps.objectives.itm import binary_matching_loss, matching_loss

GROUP_PAIRS = 2
HAS_NEGATIVE = torch.tensor([True, True, False, False, True, True])


def naive(logit_R2: Tensor, has_negative: list[bool]) -> float:
    pairs, means = len(has_negative), []
    for start in range(0, pairs, GROUP_PAIRS):
        values = []
        for kind in range(3):
            for pair in range(start, start + GROUP_PAIRS):
                if kind == 0 or has_negative[pair]:
                    unmatched, matched = logit_R2[kind * pairs + pair].tolist()
                    right = matched if kind == 0 else unmatched
                    values.append(math.log(math.exp(unmatched) + math.exp(matched)) - right)
        means.append(sum(values) / len(values))
    return sum(means) / len(means)


@pytest.mark.parametrize("has_negative", [HAS_NEGATIVE, torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)])
def test_equals_a_loop(has_negative: Tensor) -> None:
    logit = torch.randn(18, 2, generator=torch.Generator().manual_seed(0))
    found = matching_loss(logit, has_negative_B=has_negative, group_pairs=GROUP_PAIRS)
    assert found.item() == pytest.approx(naive(logit, has_negative.tolist()), rel=1e-6)


def test_gradient_and_rows_without_negatives_get_none() -> None:
    logit = torch.randn(18, 2, dtype=torch.float64, requires_grad=True)

    def loss(logit: Tensor) -> Tensor:
        return matching_loss(logit, has_negative_B=HAS_NEGATIVE, group_pairs=GROUP_PAIRS)

    assert torch.autograd.gradcheck(loss, (logit,), **FLOAT32)
    (gradient,) = torch.autograd.grad(loss(logit), logit)
    absent = torch.tensor([8, 9, 14, 15])
    assert torch.equal(gradient[absent], torch.zeros(4, 2, dtype=torch.float64))
    assert (gradient.abs().sum(1) > 0).sum() == 14


def test_zero_logits_give_log_2() -> None:
    found = matching_loss(torch.zeros(18, 2), has_negative_B=HAS_NEGATIVE, group_pairs=GROUP_PAIRS)
    assert found.item() == pytest.approx(math.log(2), rel=1e-6)


def test_sure_and_right_logits_give_0() -> None:
    sure = torch.tensor([[-50.0, 50.0]] * 6 + [[50.0, -50.0]] * 12)
    assert matching_loss(sure, has_negative_B=HAS_NEGATIVE, group_pairs=GROUP_PAIRS).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kinds", [1, 2])
def test_one_logit_equals_a_loop_with_its_gradient(kinds: int) -> None:
    logit = torch.randn(6 * (kinds + 1), dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    means = []
    for start in range(0, 6, GROUP_PAIRS):
        values = []
        for pair in range(start, start + GROUP_PAIRS):
            values.append(-math.log(1 / (1 + math.exp(-logit[pair].item()))))
            if HAS_NEGATIVE[pair]:
                negatives = [logit[6 * kind + pair].item() for kind in range(1, kinds + 1)]
                values += [-math.log(1 - 1 / (1 + math.exp(-value))) for value in negatives]
        means.append(sum(values) / len(values))

    def loss(logit: Tensor) -> Tensor:
        return binary_matching_loss(logit, has_negative_B=HAS_NEGATIVE, group_pairs=GROUP_PAIRS)

    assert loss(logit).item() == pytest.approx(sum(means) / 3, rel=1e-6)
    assert torch.autograd.gradcheck(loss, (logit,), **FLOAT32)
