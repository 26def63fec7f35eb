from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tbps.objectives.phrase_contrast import phrase_candidates, phrase_contrast_loss

IDENTITY, GROUP, WORDS = [1, 1, 2, 3, 2, 9], [0, 0, 0, 0, 0, 1], [0, 1, 0, 2, 3, 2]


def naive_candidates(phrase: int) -> list[int]:
    return [
        other
        for other in range(6)
        if other == phrase
        or (GROUP[other] == GROUP[phrase] and IDENTITY[other] != IDENTITY[phrase] and WORDS[other] != WORDS[phrase])
    ]


def candidates() -> torch.Tensor:
    return phrase_candidates(torch.tensor(IDENTITY), torch.tensor(GROUP), torch.tensor(WORDS))


def features() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, phrase = (F.normalize(torch.randn(6, 4, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    return image, phrase, torch.tensor([0.5, 0.5, 0.25, 0.25, 0.1, 0.9], dtype=torch.float64)


def test_candidates() -> None:
    assert [row.nonzero().flatten().tolist() for row in candidates()] == [naive_candidates(row) for row in range(6)]
    assert naive_candidates(0) == [0, 3, 4] and naive_candidates(5) == [5]


def test_loss_equals_a_naive_double_loop() -> None:
    image, phrase, weight = features()
    temperature = torch.tensor(0.2, dtype=torch.float64)
    expected = 0.0
    for row in range(6):
        for one, others in ((image[row], phrase), (phrase[row], image)):
            powers = {n: math.exp(float(one @ others[n]) / 0.2) for n in naive_candidates(row)}
            expected -= weight[row].item() * math.log(powers[row] / sum(powers.values())) / 2
    found = phrase_contrast_loss(image, phrase, candidate_MM=candidates(), temperature=temperature, weight_M=weight)
    assert found.item() == pytest.approx(expected)


def test_gradients() -> None:
    image, phrase, weight = features()
    temperature = torch.tensor(0.5, dtype=torch.float64)
    torch.autograd.gradcheck(
        lambda i, p, t: phrase_contrast_loss(i, p, candidate_MM=candidates(), temperature=t, weight_M=weight),
        (image.requires_grad_(), phrase.requires_grad_(), temperature.requires_grad_()),
    )


def test_phrases_of_one_identity_have_nothing_to_contrast_with() -> None:
    image, phrase, weight = features()
    alone = phrase_candidates(torch.ones(6), torch.zeros(6), torch.arange(6))
    image.requires_grad_()
    loss = phrase_contrast_loss(image, phrase, candidate_MM=alone, temperature=torch.tensor(0.07), weight_M=weight)
    loss.backward()
    assert loss.item() == 0 and image.grad is not None and not image.grad.any()
