"""Masked graph modelling: the choice of the node, the loss, the variance that tells of a collapse."""

from __future__ import annotations

import pytest
import torch
from finite_differences import FLOAT32

from tbps.objectives.masked_graph import choose_masked, masked_graph_loss, target_variance

PRESENT = torch.tensor(
    [[True] * 6, [False, True, False, False, True, True], [False, False, True, False, False, False], [False] * 6]
)


def test_one_of_the_parts_that_are_there_is_masked_all_alike() -> None:
    counts = torch.zeros(4, 6)
    for step in range(1200):
        counts += choose_masked(PRESENT, torch.full((4,), (step + 0.5) / 1200, dtype=torch.float64))
    assert counts.tolist() == [[200] * 6, [0, 400, 0, 0, 400, 400], [0, 0, 1200, 0, 0, 0], [0] * 6]


def test_the_largest_number_below_one_chooses_the_last_part() -> None:
    almost = torch.nextafter(torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    assert choose_masked(PRESENT, almost).float().argmax(1).tolist() == [5, 5, 2, 0]
    assert choose_masked(PRESENT, almost.float()).sum(1).tolist() == [1, 1, 1, 0]


def test_the_loss_is_a_mean_over_bodies_of_means_over_their_parts() -> None:
    torch.manual_seed(0)
    guess = torch.randn(4, 6, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 6, 3, dtype=torch.float64)
    total = 0.0
    for body in range(4):
        errors = [
            sum((guess[body, part, d] - target[body, part, d]).item() ** 2 for d in range(3)) / 3
            for part in range(6)
            if PRESENT[body, part]
        ]
        total += sum(errors) / len(errors) if errors else 0.0
    loss = masked_graph_loss(guess, target, PRESENT)
    assert loss.item() == pytest.approx(total / 4, rel=1e-5)
    assert torch.autograd.gradcheck(lambda x: masked_graph_loss(x, target, PRESENT), (guess,), **FLOAT32)
    (gradient,) = torch.autograd.grad(loss, guess)
    assert (gradient.abs().sum(2) > 0).equal(PRESENT)


def test_bodies_without_any_part_give_a_loss_of_0_and_no_gradient() -> None:
    guess = torch.randn(2, 6, 3, requires_grad=True)
    nothing = torch.zeros(2, 6, dtype=torch.bool)
    loss = masked_graph_loss(guess, torch.randn(2, 6, 3), nothing)
    (gradient,) = torch.autograd.grad(loss, guess)
    assert loss.item() == 0.0 and not gradient.any()
    assert target_variance(torch.randn(2, 6, 3), nothing).item() == 0.0


def test_the_variance_is_that_over_the_parts_that_are_there() -> None:
    target = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    there = torch.stack([target[body, part] for body, part in PRESENT.nonzero().tolist()])
    assert target_variance(target, PRESENT).item() == pytest.approx(there.var(0, unbiased=False).mean().item(), rel=1e-5)
    assert target_variance(torch.ones(4, 6, 3), PRESENT).item() == 0.0
