"""BERT masking: the 80 / 10 / 10 rule position by position, its shares at length, and what is never touched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tbps.data.batch import TokenMask
from tbps.data.draws import DrawSpec, draw_pair, generator_of, stack_draws
from tbps.objectives.masking import mask_tokens

CLS, MASK, VOCABULARY = 2, 3, 60


def token_ids(rows: int, length: int) -> Tensor:
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = CLS
    for row in range(rows):
        ids[row, length - row % 3 :] = 0
    return ids


def drawn_mask(rows: int, length: int, *, probability: float) -> TokenMask:
    spec = DrawSpec(mlm_probability=probability, mrtd_probability=0, vocabulary_size=VOCABULARY, num_patches=0)
    pairs = [
        draw_pair(spec, generator=generator_of(seed=1, epoch=0, key=str(row), use="draws"), num_tokens=length)
        for row in range(rows)
    ]
    return stack_draws(spec, pairs, length=length).mlm


def test_equals_a_loop_over_positions() -> None:
    ids, mask = token_ids(9, 12), drawn_mask(9, 12, probability=0.6)
    masked, chosen = mask_tokens(ids, mask, cls_id=CLS, mask_id=MASK)
    for row in range(9):
        for place in range(12):
            old, new = ids[row, place].item(), masked[row, place].item()
            expected_chosen = bool(mask.select_BL[row, place]) and old not in (0, CLS)
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
    ids, mask = token_ids(300, 60), drawn_mask(300, 60, probability=0.15)
    masked, chosen = mask_tokens(ids, mask, cls_id=CLS, mask_id=MASK)
    open_positions = (ids != 0) & (ids != CLS)
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
    assert mask.word_BL.min() >= 0 and mask.word_BL.max() == VOCABULARY - 1


def test_cls_and_padding_are_never_touched() -> None:
    ids = token_ids(9, 12)
    yes = torch.ones_like(ids, dtype=torch.bool)
    everything = TokenMask(select_BL=yes, mask_BL=yes, random_BL=yes, word_BL=ids * 0 + 7)
    masked, chosen = mask_tokens(ids, everything, cls_id=CLS, mask_id=MASK)
    protected = (ids == 0) | (ids == CLS)
    assert torch.equal(masked[protected], ids[protected])
    assert torch.equal(chosen, ~protected)
    assert (masked[~protected] == MASK).all()
