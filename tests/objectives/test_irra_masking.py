"""IRRA's masking: the rule token by token as its code reads, its shares at length, and what is never touched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tbps.objectives.irra_masking import mask_words

PAD, MASK, START, END = 0, 197, 198, 199
PROBABILITY = 0.15


def captions(lengths: tuple[int, ...]) -> Tensor:
    ids = torch.randint(1, MASK, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = START
    for row, length in enumerate(lengths):
        ids[row, length - 1] = END
        ids[row, length:] = PAD
    return ids


def numbers(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.rand(rows, 2, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def as_the_code_reads(ids: list[int], choice: list[float], place: list[float]) -> tuple[list[int], list[bool]]:
    """One caption, token by token: what the official loop does with the same numbers."""
    masked, chosen = list(ids), [False] * len(ids)
    for i, token in enumerate(ids):
        if not 0 < token < MASK or choice[i] >= PROBABILITY:
            continue
        chosen[i], share = True, choice[i] / PROBABILITY
        if share < 0.8:
            masked[i] = MASK
        elif share < 0.9:
            masked[i] = list(range(1, MASK))[int(place[i] * (MASK - 1))]
    if not any(chosen):
        chosen[1], masked[1] = True, MASK
    return masked, chosen


def test_equals_the_official_loop() -> None:
    ids, drawn = captions((9, 17, 6, 25, 2, 3) * 20), numbers(120, 25)
    found = mask_words(ids, drawn, mask_id=MASK)
    forced = 0
    for row in range(len(ids)):
        expected = as_the_code_reads(ids[row].tolist(), drawn[row, 0].tolist(), drawn[row, 1].tolist())
        assert (found.token_ids_BL[row].tolist(), found.chosen_BL[row].tolist()) == expected
        forced += expected[1][1] and drawn[row, 0, 1] >= PROBABILITY
    assert forced > 5, "the rule for captions without a chosen token has been met"


def test_shares_at_length() -> None:
    ids = captions((60,) * 400)
    drawn = numbers(400, 60)
    masked, chosen = mask_words(ids, drawn, mask_id=MASK)
    count = chosen.sum().item()
    assert count / (400 * 58) == pytest.approx(PROBABILITY, abs=0.008)
    shares = {
        "mask": (masked == MASK)[chosen],
        "word": ((masked != MASK) & (masked != ids))[chosen],
        "same": (masked == ids)[chosen],
    }
    for name, expected in (("mask", 0.8), ("word", 0.1), ("same", 0.1)):
        assert shares[name].float().mean().item() == pytest.approx(expected, abs=0.03), name


def test_random_words_are_of_the_ids_below_the_mask() -> None:
    ids = captions((60,) * 400)
    drawn = numbers(400, 60)
    drawn[:, 0] = 0.85 * PROBABILITY
    drawn[0, 1], drawn[1, 1] = 0.0, 1.0
    masked, chosen = mask_words(ids, drawn, mask_id=MASK)
    assert masked[chosen].min() == 1 and masked[chosen].max() == MASK - 1
    assert len(masked[chosen].unique()) == MASK - 1


def test_padding_start_end_and_mask_are_never_chosen() -> None:
    ids = captions((9, 17, 6, 25))
    ids[1, 3] = MASK
    everything = torch.zeros(4, 2, 25, dtype=torch.float64)
    masked, chosen = mask_words(ids, everything, mask_id=MASK)
    protected = (ids == PAD) | (ids >= MASK)
    assert torch.equal(chosen, ~protected)
    assert torch.equal(masked[protected], ids[protected])
    assert (masked[~protected] == MASK).all()


def test_the_given_captions_stay_as_they_are() -> None:
    """The official code writes the masks into the captions themselves, so that no loss sees clean ones."""
    ids = captions((9, 17, 6, 25))
    before = ids.clone()
    mask_words(ids, numbers(4, 25), mask_id=MASK)
    assert torch.equal(ids, before)


def test_another_probability() -> None:
    ids, drawn = captions((60,) * 50), numbers(50, 60)
    chosen = mask_words(ids, drawn, mask_id=MASK, probability=0.5).chosen_BL
    assert torch.equal(chosen[:, 2:-1], drawn[:, 0, 2:-1] < 0.5)
