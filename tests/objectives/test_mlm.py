"""Masked language modelling against loops over MARS Eq. 5 with ALBEF's soft labels (Eq. 7)."""

from __future__ import annotations

import math

import pytest
import torch
from finite_differences import FLOAT32
from torch import Tensor

from tbps.objectives.mlm import log_softmax_over_positions, masked_word_loss

GROUP = torch.tensor([0, 0, 0, 2, 2])  # group 1 has no masked position
LABEL = torch.tensor([3, 0, 6, 2, 2])


def logits(seed: int) -> Tensor:
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(seed)) * 2


def loss_of(logit: Tensor, *, alpha: float, soft_log: Tensor | None = None) -> Tensor:
    return masked_word_loss(logit, LABEL, logits(2), alpha=alpha, group_M=GROUP, num_groups=3, soft_log_MV=soft_log)


def naive(logit: Tensor, soft_log: Tensor | None, alpha: float) -> float:
    twin, groups = logits(2), []
    for group in range(3):
        values = []
        for m in (row for row in range(5) if GROUP[row] == group):
            total = sum(math.exp(value) for value in logit[m].tolist())
            twin_total = sum(math.exp(value) for value in twin[m].tolist())
            log_p = [math.log(math.exp(value) / total) for value in logit[m].tolist()]
            soft = log_p if soft_log is None else soft_log[m].tolist()
            soft_term = -sum(math.exp(twin[m, v]) / twin_total * soft[v] for v in range(7))
            values.append(-(1 - alpha) * log_p[int(LABEL[m])] + alpha * soft_term)
        groups.append(sum(values) / len(values) if values else 0.0)
    return sum(groups) / 3


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_equals_loops(alpha: float) -> None:
    assert loss_of(logits(1), alpha=alpha).item() == pytest.approx(naive(logits(1), None, alpha), rel=1e-5)


def test_another_soft_term_replaces_the_second_half_only() -> None:
    soft = -torch.rand(5, 7)
    assert loss_of(logits(1), alpha=0.4, soft_log=soft).item() == pytest.approx(naive(logits(1), soft, 0.4), rel=1e-5)
    assert loss_of(logits(1), alpha=0.0, soft_log=soft).item() == loss_of(logits(1), alpha=0.0).item()


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_gradient(alpha: float) -> None:
    logit = logits(1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: loss_of(each, alpha=alpha), (logit,), **FLOAT32)


def test_zero_logits_give_the_log_of_the_vocabulary() -> None:
    # Two of three groups hold masked positions; the third counts as 0.
    assert loss_of(torch.zeros(5, 7), alpha=0.4).item() == pytest.approx(math.log(7) * 2 / 3, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_no_masked_position_at_all_gives_0_with_a_gradient(alpha: float) -> None:
    logit = torch.zeros(0, 7, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    found = masked_word_loss(logit, none, torch.zeros(0, 7), alpha=alpha, group_M=none, num_groups=2)
    assert found.item() == 0
    found.backward()
    assert logit.grad is not None


def test_softmax_over_positions_equals_loops() -> None:
    tokens = torch.tensor([3, 1, 4])
    grid = torch.tensor([[0, 1, 2, 0], [3, 0, 0, 0], [4, 5, 6, 7]])
    logit = torch.randn(8, 5, generator=torch.Generator().manual_seed(3))
    found = log_softmax_over_positions(logit, grid, tokens)
    start = [0, 3, 4]
    for b in range(3):
        for v in range(5):
            total = sum(math.exp(logit[start[b] + place, v]) for place in range(int(tokens[b])))
            for place in range(4):
                value = found[b, place, v].item()
                if place < tokens[b]:
                    assert value == pytest.approx(logit[start[b] + place, v].item() - math.log(total), abs=1e-5)
                else:
                    assert value == -math.inf


def test_gradient_of_the_softmax_over_positions() -> None:
    tokens, grid = torch.tensor([3, 2]), torch.tensor([[0, 1, 2], [3, 4, 0]])
    logit = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, 3, 4, dtype=torch.float64)

    def total(logit: Tensor) -> Tensor:
        log = log_softmax_over_positions(logit, grid, tokens).double()
        return (log[log.isfinite()] * weight[log.isfinite()]).sum()

    assert torch.autograd.gradcheck(total, (logit,), **FLOAT32)
