"""Cross entropy of masked words against a loop, in parts of a batch, at its known point, and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from finite_differences import FLOAT32
from torch import Tensor

from tbps.objectives.guessed_words import guessed_words_loss

WORD = torch.tensor([3, 0, 6, 2, 2])


def logits() -> Tensor:
    return 2 * torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_equals_a_loop() -> None:
    total = 0.0
    for row, word in zip(logits().tolist(), WORD.tolist(), strict=True):
        total += math.log(sum(math.exp(value) for value in row)) - row[word]
    assert guessed_words_loss(logits(), WORD, mean_over=5).item() == pytest.approx(total / 5, rel=1e-6)


def test_parts_of_a_batch_add_up_to_the_mean_of_the_whole() -> None:
    whole = guessed_words_loss(logits(), WORD, mean_over=5)
    parts = [guessed_words_loss(logits()[part], WORD[part], mean_over=torch.tensor(5)) for part in (slice(4), slice(4, 5))]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)


def test_a_part_without_a_masked_word_gives_0_with_a_gradient() -> None:
    logit = torch.zeros(0, 7, requires_grad=True)
    found = guessed_words_loss(logit, torch.zeros(0, dtype=torch.int64), mean_over=3)
    found.backward()
    assert found.item() == 0 and logit.grad is not None


def test_zero_logits_give_the_log_of_the_vocabulary() -> None:
    assert guessed_words_loss(torch.zeros(5, 7), WORD, mean_over=5).item() == pytest.approx(math.log(7), rel=1e-6)


def test_gradient() -> None:
    assert torch.autograd.gradcheck(
        lambda each: guessed_words_loss(each, WORD, mean_over=5), (logits().requires_grad_(),), **FLOAT32
    )
