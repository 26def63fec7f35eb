"""Contrast over the whole batch: its checks, a naive double loop, its gradient, the bounded scale, TBPS-CLIP's numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tbps.objectives.batch_contrast import batch_contrast, bounded_scale
from tbps.objectives.sdm import identity_distribution

IDENTITY = torch.tensor([0, 0, 1, 2, 1, 0])
TARGETS = {"pair": torch.eye(6), "identity": identity_distribution(IDENTITY)}


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("own_share", [0.0, 0.3])
@pytest.mark.parametrize("positives", TARGETS)
def test_it_is_the_formula(positives: str, own_share: float) -> None:
    image, caption, scale = unit(6, 5), unit(6, 5, seed=1), 7.0
    expected = 0.0
    for query, key in ((image, caption), (caption, image)):
        for row in range(6):
            powers = [math.exp(scale * float(query[row] @ key[column])) for column in range(6)]
            for column in range(6):
                p = powers[column] / sum(powers)
                y = (1 - own_share) * float(TARGETS[positives][row, column]) + own_share * p
                expected -= y * math.log(p) / 12
    found = batch_contrast(image, caption, TARGETS[positives], scale=torch.tensor(scale), own_share=own_share)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_features_of_zeros_give_the_logarithm_of_the_batch() -> None:
    zero = torch.zeros(6, 5)
    for target in TARGETS.values():
        assert batch_contrast(zero, zero, target, scale=torch.tensor(9.0)).item() == pytest.approx(math.log(6), rel=1e-6)


def test_perfect_features_give_the_entropy_of_the_target() -> None:
    rows = F.one_hot(IDENTITY).double()
    entropy = -sum(float(y) * math.log(float(y)) for y in TARGETS["identity"].flatten() if y) / 6
    found = batch_contrast(rows, rows, TARGETS["identity"], scale=torch.tensor(100.0))
    assert found.item() == pytest.approx(entropy, rel=1e-6)


def test_one_hot_targets_are_torchs_cross_entropy() -> None:
    image, caption, scale = unit(6, 5), unit(6, 5, seed=1), torch.tensor(3.0)
    logits = scale * image @ caption.T
    expected = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    assert batch_contrast(image, caption, TARGETS["pair"], scale=scale).item() == pytest.approx(expected.item(), rel=1e-9)


def test_gradient() -> None:
    image, caption = unit(6, 5).requires_grad_(), unit(6, 5, seed=1).requires_grad_()
    log_scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda *x: batch_contrast(x[0], x[1], TARGETS["identity"].double(), scale=bounded_scale(x[2])),
        (image, caption, log_scale),
    )


def test_own_similarities_in_the_target_carry_no_gradient() -> None:
    image, caption = unit(6, 5).requires_grad_(), unit(6, 5, seed=1)
    batch_contrast(image, caption, TARGETS["pair"], scale=torch.tensor(5.0), own_share=1.0).backward()
    # Cross entropy of a distribution with itself, held fixed: its gradient vanishes.
    assert image.grad is not None and image.grad.abs().max() < 1e-12


def test_bfloat16_features_are_compared_in_float32() -> None:
    image, caption = unit(6, 5).bfloat16(), unit(6, 5, seed=1).bfloat16()
    exact = batch_contrast(image.float(), caption.float(), TARGETS["pair"], scale=torch.tensor(50.0))
    with torch.autocast("cpu", torch.bfloat16):
        found = batch_contrast(image, caption, TARGETS["pair"], scale=torch.tensor(50.0))
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)


def test_the_scale_is_bounded_in_value_alone() -> None:
    low = torch.tensor(2.0, requires_grad=True)
    assert bounded_scale(low).item() == pytest.approx(math.exp(2.0))
    high = torch.tensor(5.0, requires_grad=True)
    scale = bounded_scale(high)
    assert scale.item() == pytest.approx(100.0)
    scale.backward()
    assert high.grad is not None and high.grad.item() == pytest.approx(math.exp(5.0))
