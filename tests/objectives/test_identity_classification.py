"""Identity classification against a loop, at its known point, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from finite_differences import FLOAT32
from torch import Tensor

from tbps.objectives.identity_classification import identity_classification

CLASS = torch.tensor([2, 0, 4, 2])


def logits(seed: int) -> Tensor:
    return 2 * torch.randn(4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_a_loop() -> None:
    image, caption = logits(1), logits(2)
    total = 0.0
    for rows in (image.tolist(), caption.tolist()):
        for row, number in zip(rows, CLASS.tolist(), strict=True):
            total += math.log(sum(math.exp(value) for value in row)) - row[number]
    assert identity_classification(image, caption, CLASS).item() == pytest.approx(total / 8, rel=1e-6)


def test_zero_logits_give_the_log_of_the_number_of_identities() -> None:
    zero = torch.zeros(4, 5)
    assert identity_classification(zero, zero, CLASS).item() == pytest.approx(math.log(5), rel=1e-6)


def test_gradient() -> None:
    given = (logits(1).requires_grad_(), logits(2).requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: identity_classification(a, b, CLASS), given, **FLOAT32)
