"""Attention-guided masking against loops over the formulas: AGA Eq. 7, 8 and 9, and Table I's "picked"."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tbps.objectives.attention_guided_masking import (
    Aggregation,
    aggregate_class_attention,
    mask_probability,
    scale_to_share,
    vacuous_mask_probability,
)

BETA, ALPHA_1, ALPHA_2, TEMPERATURE = 0.95, 0.05, 0.15, 0.02


def attention_rows() -> Tensor:
    """Six layers, four captions of nine places: [CLS], words, padding; what [CLS] gives to each place."""
    logit_KBL = 2 * torch.randn(6, 4, 9, generator=torch.Generator().manual_seed(0))
    logit_KBL[:, 1, 5:] = -torch.inf
    logit_KBL[:, 2, 2:] = -torch.inf
    return logit_KBL.softmax(-1)


WORDS = torch.tensor([[0] + [1] * 8, [0] + [1] * 4 + [0] * 4, [0, 1] + [0] * 7, [0] + [1] * 8], dtype=torch.bool)


def probabilities(attention_BL: Tensor, *, alpha_1: float = ALPHA_1, words_BL: Tensor = WORDS) -> Tensor:
    return mask_probability(attention_BL, words_BL, alpha_1=alpha_1, alpha_2=ALPHA_2, temperature=TEMPERATURE)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.95, 0.99])
def test_ema_equals_a_loop_over_layers(beta: float) -> None:
    attention = attention_rows()
    expected = torch.zeros(4, 9)
    for layer in attention:
        expected = beta * expected + (1 - beta) * layer
    assert torch.allclose(aggregate_class_attention(attention, aggregation="ema", beta=beta), expected, atol=1e-7)


def test_ema_of_equal_layers() -> None:
    same = attention_rows()[:1].repeat(6, 1, 1)
    found = aggregate_class_attention(same, aggregation="ema", beta=BETA)
    assert torch.allclose(found, same[0] * (1 - BETA**6), atol=1e-7)


@pytest.mark.parametrize("aggregation", ["mean", "last"])
def test_mean_and_last(aggregation: Aggregation) -> None:
    attention = attention_rows()
    found = aggregate_class_attention(attention, aggregation=aggregation, beta=BETA)
    for caption in range(4):
        for place in range(9):
            layers = [float(layer[caption, place]) for layer in attention]
            expected = layers[-1] if aggregation == "last" else sum(layers) / 6
            assert found[caption, place].item() == pytest.approx(expected, abs=1e-6)


def test_probability_equals_a_loop_over_words() -> None:
    attention = attention_rows()[-1]
    found = probabilities(attention)
    for caption in range(4):
        places = WORDS[caption].nonzero()[:, 0].tolist()
        total = sum(math.exp(float(attention[caption, place]) / TEMPERATURE) for place in places)
        for place in range(9):
            expected = 0.0
            if place in places:
                share = math.exp(float(attention[caption, place]) / TEMPERATURE) / total
                expected = min(1.0, ALPHA_1 + ALPHA_2 * len(places) * share)
            assert found[caption, place].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_equal_attention_gives_both_alphas_at_any_length() -> None:
    found = probabilities(torch.full((4, 9), 0.1))
    assert torch.allclose(found[WORDS], torch.tensor(0.2))
    assert not found[~WORDS].any()


def test_a_word_that_has_all_attention_is_certain_and_a_negative_offset_never_negative() -> None:
    attention = torch.zeros(4, 9)
    attention[:, 1] = 1.0
    found = probabilities(attention, alpha_1=-0.05)
    assert torch.equal(found[[0, 3], 1], torch.ones(2))  # 8 words: 0.15 * 8 = 1.2
    assert (found[:, 2:] == 0).all()


def test_all_attention_on_cls_and_padding_falls_back_to_equal_words() -> None:
    attention = torch.zeros(4, 9)
    attention[:, 0], attention[:, 8] = 0.5, 0.5
    words = WORDS.clone()
    words[:, 8] = False
    assert torch.allclose(probabilities(attention, words_BL=words)[words], torch.tensor(0.2))


def test_a_caption_without_words_is_not_masked() -> None:
    assert torch.equal(probabilities(attention_rows()[-1], words_BL=torch.zeros_like(WORDS)), torch.zeros(4, 9))


def test_nothing_is_differentiated() -> None:
    attention = attention_rows().requires_grad_()
    assert not probabilities(aggregate_class_attention(attention, aggregation="ema", beta=BETA)).requires_grad


def test_picked_masks_vacuous_words_alone_and_keeps_the_share() -> None:
    vacuous = torch.zeros(4, 9, dtype=torch.bool)
    vacuous[0, [0, 1, 2, 3, 4]] = True  # [CLS] is no word
    vacuous[1, 2] = True
    vacuous[2, 1] = True
    found = vacuous_mask_probability(vacuous, WORDS, probability=0.15)
    assert found[0].tolist() == pytest.approx([0, 0.3, 0.3, 0.3, 0.3, 0, 0, 0, 0])
    assert found[1].tolist() == pytest.approx([0, 0, 0.6] + [0] * 6)
    assert found[2].tolist() == pytest.approx([0, 0.15] + [0] * 7)
    assert not found[3].any()  # a caption without one is not masked
    assert vacuous_mask_probability(vacuous, WORDS, probability=0.9).max() == 1


@pytest.mark.parametrize("share", [0.05, 0.15, 0.6])
def test_a_share_of_words_is_kept_by_one_factor(share: float) -> None:
    attention = attention_rows()[-1] * 3  # sharp: some words become certain
    given = probabilities(attention)
    found = mask_probability(attention, WORDS, alpha_1=ALPHA_1, alpha_2=ALPHA_2, temperature=TEMPERATURE, masked_share=share)
    assert torch.allclose(found.sum(1) / WORDS.sum(1), torch.tensor(share), atol=1e-6)
    assert not found[~WORDS].any()
    for caption in range(4):
        # the factor by bisection
        low, high = 0.0, 1e6
        for _ in range(200):
            factor = (low + high) / 2
            mean = (factor * given[caption].double()).clamp(max=1).sum() / WORDS[caption].sum()
            low, high = (factor, high) if mean < share else (low, factor)
        assert torch.allclose(found[caption].double(), (factor * given[caption].double()).clamp(max=1), atol=1e-5)


def test_a_share_that_too_few_words_can_bear_and_a_caption_without_words() -> None:
    probability = torch.zeros(4, 9)
    probability[0, 1:3] = torch.tensor([0.2, 1e-3])
    found = scale_to_share(probability, WORDS, 0.5)
    assert found[0].tolist() == [0, 1, 1] + [0] * 6
    assert not found[1:].any()
    assert not scale_to_share(probability, torch.zeros_like(WORDS), 0.5).any()


def test_the_mean_is_both_alphas_less_what_is_cut() -> None:
    mild = attention_rows()[-1] / 100
    assert torch.allclose(probabilities(mild).sum(1) / WORDS.sum(1), torch.tensor(ALPHA_1 + ALPHA_2), atol=1e-5)
    sharp = probabilities(attention_rows()[-1] * 3)
    assert ((sharp.sum(1) / WORDS.sum(1))[[0, 3]] < 0.19).all() and sharp.max() == 1
