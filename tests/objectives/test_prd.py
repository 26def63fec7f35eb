"""Positive relation detection against a loop over MARS Eq. 3."""

from __future__ import annotations

import math

import pytest
import torch
from finite_differences import FLOAT32

from tbps.objectives.prd import relation_loss

REPLACED = torch.tensor([0, 1, 1, 0, 0])


def test_equals_a_loop() -> None:
    logit = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for row, replaced in zip(logit.tolist(), REPLACED.tolist(), strict=True):
        total -= math.log(math.exp(row[replaced]) / (math.exp(row[0]) + math.exp(row[1])))
    assert relation_loss(logit, REPLACED).item() == pytest.approx(total / 5, rel=1e-6)


def test_gradient() -> None:
    logit = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: relation_loss(each, REPLACED), (logit,), **FLOAT32)


def test_zero_logits_give_log_2() -> None:
    assert relation_loss(torch.zeros(5, 2), REPLACED).item() == pytest.approx(math.log(2), rel=1e-6)
