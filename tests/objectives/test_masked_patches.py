"""Which patches BiLMa masks, and its losses by loops, in parts of a batch, at their known points, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from finite_differences import FLOAT32
from torch import Tensor

from tbps.objectives.masked_patches import choose_patches, count_right, regression_loss, semantic_loss
from tbps.objectives.patch_labels import UNLABELLED

LABEL = torch.tensor([3, 0, UNLABELLED, 2, 2, 3])


def logits() -> Tensor:
    return 2 * torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("patches", "ratio", "count"), [(192, 0.15, 29), (192, 0.5, 96), (10, 0.01, 1), (8, 1.0, 8)])
def test_a_fixed_number_of_patches_is_masked(patches: int, ratio: float, count: int) -> None:
    number = np.random.default_rng(0).random((3, patches))
    chosen = choose_patches(number, ratio=ratio)
    assert chosen.shape == (3, count)
    for row in range(3):
        expected = sorted(sorted(range(patches), key=lambda patch: number[row, patch])[:count])
        assert chosen[row].tolist() == expected


def test_every_patch_is_masked_as_often() -> None:
    number = np.random.default_rng(0).random((4000, 8))
    share = np.bincount(choose_patches(number, ratio=0.25).ravel(), minlength=8) / 4000
    assert np.abs(share - 0.25).max() < 0.03


def test_the_semantic_loss_equals_a_loop_over_labelled_patches() -> None:
    total = 0.0
    for row, label in zip(logits().tolist(), LABEL.tolist(), strict=True):
        if label != UNLABELLED:
            total += math.log(sum(math.exp(value) for value in row)) - row[label]
    assert semantic_loss(logits(), LABEL, mean_over=5).item() == pytest.approx(total / 5, rel=1e-6)


def test_parts_of_a_batch_add_up_to_the_mean_of_the_whole() -> None:
    whole = semantic_loss(logits(), LABEL, mean_over=5)
    parts = [semantic_loss(logits()[part], LABEL[part], mean_over=torch.tensor(5)) for part in (slice(4), slice(4, 6))]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)


def test_known_points() -> None:
    assert semantic_loss(torch.zeros(6, 4), LABEL, mean_over=5).item() == pytest.approx(math.log(4), rel=1e-6)
    nothing = semantic_loss(logits().requires_grad_(), torch.full((6,), UNLABELLED), mean_over=1)
    assert nothing.item() == 0
    assert regression_loss(torch.ones(3, 5), torch.zeros(3, 5), mean_over=3).item() == pytest.approx(1)


def test_the_regression_loss_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    predicted, target = torch.randn(2, 4, 7, generator=generator)
    total = 0.0
    for row, other in zip(predicted.tolist(), target.tolist(), strict=True):
        total += sum((value - wanted) ** 2 for value, wanted in zip(row, other, strict=True)) / 7
    assert regression_loss(predicted, target, mean_over=4).item() == pytest.approx(total / 4, rel=1e-5)


def test_right_ones_are_counted_by_label() -> None:
    logit = torch.nn.functional.one_hot(torch.tensor([3, 0, 0, 1, 2, 3]), 4).float()
    assert count_right(logit, LABEL).tolist() == [1, 0, 1, 2]


def test_gradients() -> None:
    assert torch.autograd.gradcheck(
        lambda each: semantic_loss(each, LABEL, mean_over=5), (logits().requires_grad_(),), **FLOAT32
    )
    target = torch.randn(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda each: regression_loss(each, target, mean_over=6), (logits().requires_grad_(),), **FLOAT32
    )
