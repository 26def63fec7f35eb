"""BERT masking: the 80 / 10 / 10 rule position by position, its shares at length, and what is never touched."""

from __future__ import annotations

import pytest
import torch

from tbps.objectives.masking import TokenMask, mask_tokens, token_mask
from tbps.text.token_batch import Captions

CLS, MASK, END, VOCABULARY = 2, 3, 4, 60
PAD = 7
"""A word, too, so that lengths alone can tell where a caption ends."""


def captions(rows: int, length: int) -> Captions:
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = CLS
    lengths = tuple(length - row % 3 for row in range(rows))
    for row in range(rows):
        ids[row, lengths[row] :] = PAD
    return Captions(token_ids_BL=ids, lengths=lengths, chunk_id_BL=torch.zeros_like(ids))


def drawn_mask(rows: int, length: int, *, probability: float) -> TokenMask:
    number_B4L = torch.rand(rows, 4, length, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return token_mask(number_B4L, probability=probability, words=range(VOCABULARY))


def test_each_field_is_made_of_its_own_numbers() -> None:
    number_B4L = torch.tensor([[[0.1, 0.15, 0.9, 1.0], [0.79, 0.8, 0.0, 1.0], [0.49, 0.5, 0.0, 1.0], [0.0, 0.5, 0.99, 1.0]]])
    mask = token_mask(number_B4L, probability=0.15, words=range(10, 20))
    assert mask.select_BL.tolist() == [[True, False, False, False]]
    assert mask.mask_BL.tolist() == [[True, False, True, False]]
    assert mask.random_BL.tolist() == [[True, False, True, False]]
    assert mask.word_BL.tolist() == [[10, 15, 19, 19]]


def test_a_place_beyond_the_end_is_never_chosen() -> None:
    mask = token_mask(torch.ones(1, 4, 3, dtype=torch.float64), probability=1.0, words=range(5))
    assert not mask.select_BL.any()


def test_equals_a_loop_over_positions() -> None:
    given, mask = captions(9, 12), drawn_mask(9, 12, probability=0.6)
    ids = given.token_ids_BL
    ids[:, 4] = PAD
    masked, chosen = mask_tokens(given, mask, special_ids=(CLS,), mask_id=MASK)
    for row in range(9):
        for place in range(12):
            old, new = ids[row, place].item(), masked[row, place].item()
            expected_chosen = bool(mask.select_BL[row, place]) and place < given.lengths[row] and old != CLS
            assert chosen[row, place].item() == expected_chosen
            if not expected_chosen:
                assert new == old
            elif mask.mask_BL[row, place]:
                assert new == MASK
            elif mask.random_BL[row, place]:
                assert new == mask.word_BL[row, place].item()
            else:
                assert new == old


def test_shares_at_length() -> None:
    given, mask = captions(300, 60), drawn_mask(300, 60, probability=0.15)
    masked, chosen = mask_tokens(given, mask, special_ids=(CLS,), mask_id=MASK)
    open_positions = given.real_BL & (given.token_ids_BL != CLS)
    num_open, num_chosen = open_positions.sum().item(), chosen.sum().item()
    assert num_chosen / num_open == pytest.approx(0.15, abs=4 * (0.15 * 0.85 / num_open) ** 0.5)
    shares = {
        "mask": (masked == MASK)[chosen],
        "word": mask.random_BL[chosen] & ~mask.mask_BL[chosen],
        "same": ~mask.random_BL[chosen] & ~mask.mask_BL[chosen],
    }
    for name, expected in (("mask", 0.8), ("word", 0.1), ("same", 0.1)):
        error = 4 * (expected * (1 - expected) / num_chosen) ** 0.5
        assert shares[name].float().mean().item() == pytest.approx(expected, abs=error), name
    counts = mask.word_BL.flatten().bincount(minlength=VOCABULARY)
    assert len(counts) == VOCABULARY
    # Chi-square over 60 words has mean 59 and standard deviation about 11.
    assert ((counts - 300.0).square() / 300).sum().item() < 110


def test_special_tokens_and_padding_are_never_touched() -> None:
    given = captions(9, 12)
    ids = given.token_ids_BL
    ids[:, 3], ids[:, 5] = PAD, END
    yes = torch.ones_like(ids, dtype=torch.bool)
    everything = TokenMask(select_BL=yes, mask_BL=yes, random_BL=yes, word_BL=ids * 0 + 7)
    masked, chosen = mask_tokens(given, everything, special_ids=(CLS, END), mask_id=MASK)
    protected = ~given.real_BL | (ids == CLS) | (ids == END)
    assert torch.equal(masked[protected], ids[protected])
    assert torch.equal(chosen, ~protected)
    assert (masked[~protected] == MASK).all()
