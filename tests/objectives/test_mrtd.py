"""Momentum-based replaced token detection: sampling, corruption and the loss against loops over MARS Eq. 6."""

from __future__ import annotations

import math

import pytest
import torch
from finite_differences import FLOAT32
from torch import Tensor

from tbps.objectives.mrtd import corrupt, draw_words, replaced_token_loss

CLS = 2
# Two captions a group: [CLS], words, padding. Words that became padding or [CLS] are not counted.
ORIGINAL = torch.tensor([CLS, 5, 6, 0, CLS, 7, 8, 9, CLS, 4, 4, 0])
CORRUPTED = torch.tensor([CLS, 5, 9, 0, CLS, 0, 8, CLS, CLS, 6, 4, 0])
GROUP = torch.tensor([0] * 8 + [1] * 4)


def test_draws_follow_the_softmax() -> None:
    logit = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)) * 2
    share = logit.double().softmax(1)
    steps = 2000
    counted = torch.zeros(3, 6)
    for step in range(steps):
        word = draw_words(logit, torch.full((3,), (step + 0.5) / steps, dtype=torch.float64))
        counted[torch.arange(3), word] += 1
    assert (counted - share * steps).abs().max() <= 1.0


def test_a_draw_is_the_first_word_whose_cumulated_probability_exceeds_the_number() -> None:
    logit = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    uniform = torch.rand(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    uniform[:3] = torch.tensor([0.0, 1 - 2**-53, 1.0])  # 1: the last number below it, had it been kept in float32
    found = draw_words(logit, uniform)
    for row in range(40):
        cumulated, expected = 0.0, 5
        for word, probability in enumerate(logit[row].double().softmax(0).tolist()):
            cumulated += probability
            if cumulated > uniform[row]:
                expected = word
                break
        assert found[row].item() == expected


def test_a_word_of_probability_0_is_never_drawn() -> None:
    logit = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).repeat(4, 1)
    uniform = torch.tensor([0.0, 0.49, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw_words(logit, uniform).tolist() == [1, 1, 2, 2]


def test_corruption_keeps_cls_and_padding() -> None:
    position, real = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 1, 0])
    assert corrupt(torch.tensor([9, 8, 7, 6]), position_N=position, real_N=real, start_id=CLS, pad_id=0).tolist() == [
        CLS,
        8,
        7,
        0,
    ]


def loss_of(logit: Tensor) -> Tensor:
    return replaced_token_loss(
        logit, corrupted_N=CORRUPTED, original_N=ORIGINAL, special_ids=(0, CLS), group_N=GROUP, num_groups=2
    )


def test_equals_a_loop() -> None:
    logit = torch.randn(12, 2, generator=torch.Generator().manual_seed(3))
    means = []
    for group in range(2):
        values = []
        for n in (row for row in range(12) if GROUP[row] == group):
            if CORRUPTED[n] in (0, CLS):
                continue
            replaced = int(CORRUPTED[n] != ORIGINAL[n])
            same, other = logit[n].tolist()
            values.append(math.log(math.exp(same) + math.exp(other)) - (other if replaced else same))
        means.append(sum(values) / len(values))
    assert loss_of(logit).item() == pytest.approx(sum(means) / 2, rel=1e-6)


def test_gradient_and_tokens_that_are_not_counted() -> None:
    logit = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss_of, (logit,), **FLOAT32)
    (gradient,) = torch.autograd.grad(loss_of(logit), logit)
    assert torch.equal(gradient.abs().sum(1) > 0, (CORRUPTED != 0) & (CORRUPTED != CLS))


def test_zero_logits_give_log_2() -> None:
    assert loss_of(torch.zeros(12, 2)).item() == pytest.approx(math.log(2), rel=1e-6)
