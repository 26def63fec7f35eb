"""APTM's masking: how many pieces, whole words, runs, what stands there then, and the official padding."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from tbps.objectives.span_masking import MaskedSpans, choose_places, mask_spans, seeds_of
from tbps.text.token_batch import Captions

CLS, SEP, MASK, VOCABULARY = 2, 3, 4, 100
SUBWORDS = 80  # and above


def captions(lengths: tuple[int, ...], *, seed: int = 0) -> Captions:
    torch.manual_seed(seed)
    longest = -(-max(lengths) // 8) * 8
    ids = torch.randint(5, VOCABULARY, (len(lengths), longest))
    ids[:, 0], ids[:, 1] = CLS, 7
    for row, length in enumerate(lengths):
        ids[row, length - 1], ids[row, length:] = SEP, 0
    return Captions(token_ids_BL=ids, lengths=lengths, chunk_id_BL=torch.zeros_like(ids), starts_BL=ids < SUBWORDS)


def masked(given: Captions, seeds: list[int], *, padded_to: int = 0, most: int = 10) -> MaskedSpans:
    return mask_spans(
        given,
        seeds,
        share=0.25,
        most=most,
        mask_id=MASK,
        vocabulary_size=VOCABULARY,
        has_end=True,
        padded_to=padded_to,
    )


def test_a_quarter_of_the_words_pieces_and_nothing_else() -> None:
    given = captions((30, 12, 3, 70))
    found = masked(given, [1, 2, 3, 4])
    assert Counter(found.row_M.tolist()) == {0: 7, 1: 2, 2: 1, 3: 10}
    for row, place, word in zip(found.row_M, found.position_M, found.word_M, strict=True):
        assert 1 <= place < given.lengths[row] - 1 and word == given.token_ids_BL[row, place]
    changed = found.token_ids_BL != given.token_ids_BL.numpy()
    chosen = np.zeros_like(changed)
    chosen[found.row_M, found.position_M] = True
    assert not (changed & ~chosen).any() and given.token_ids_BL[0, 0] == CLS


def test_what_becomes_of_chosen_pieces() -> None:
    given = captions((60,) * 500)
    found = masked(given, list(range(500)))
    now = found.token_ids_BL[found.row_M, found.position_M]
    share = len(now)
    assert (now == MASK).sum() / share == pytest.approx(0.8, abs=0.02)
    assert (now == found.word_M).sum() / share == pytest.approx(0.1, abs=0.02)
    other = now[(now != MASK) & (now != found.word_M)]
    assert other.min() < 5 and other.max() >= 95  # any id of the vocabulary, special ones too


def test_words_are_masked_whole() -> None:
    starts = [True, True, True, False, False, True, True, True]
    for seed in range(200):
        found = choose_places(starts, range(1, 7), number=3, random=np.random.default_rng(seed))
        if len(found) == 3 and 3 in found and set(found) & {2, 4}:
            continue
        assert len(found) == 3
    whole = [choose_places(starts, range(1, 7), number=6, random=np.random.default_rng(seed)) for seed in range(20)]
    assert all(found == [1, 2, 3, 4, 5, 6] for found in whole)
    first = [
        tuple(choose_places([True, True, False, True, True, True, True], range(1, 7), number=2, random=rng))
        for rng in map(np.random.default_rng, range(400))
    ]
    split = sum((1 in found) != (2 in found) for found in first)
    assert split < 100  # only where what was too much was dropped, or a run held half of what was kept


def test_a_fifth_of_the_places_is_a_run() -> None:
    starts = [True] * 200
    lengths = Counter(
        len(choose_places(starts, range(1, 200), number=1, random=np.random.default_rng(seed))) for seed in range(50)
    )
    assert lengths == {1: 50}  # more than `number` is dropped
    neighbours = 0
    for seed in range(1000):
        one, two = choose_places(starts, range(1, 200), number=2, random=np.random.default_rng(seed))
        neighbours += two - one <= 2
    # A run first: 0.2. A run second, of which two of two (1 in 3) or of three (1 in 2) are kept: 0.067. By chance: 0.016.
    assert neighbours / 1000 == pytest.approx(0.283, abs=0.04)


def test_the_official_code_masks_padding_too() -> None:
    given = captions((12,) * 300)
    given.starts_BL = torch.ones_like(given.token_ids_BL, dtype=torch.bool)
    found = masked(given, list(range(300)), padded_to=24)
    assert found.token_ids_BL.shape == (300, 24)
    assert Counter(Counter(found.row_M.tolist()).values()) == {6: 300}
    padding = (found.position_M >= 12).mean()
    assert padding == pytest.approx(12 / 23, abs=0.03) and (found.position_M == 11).any()
    assert (found.word_M[found.position_M >= 12] == 0).all()


def test_it_is_a_function_of_the_seed() -> None:
    given = captions((20, 20, 20))
    one, two = masked(given, [5, 5, 6]), masked(given, [5, 9, 6])
    keep = [0, 2]
    assert np.array_equal(one.token_ids_BL[keep], two.token_ids_BL[keep])
    assert not np.array_equal(one.token_ids_BL[1], two.token_ids_BL[1])
    seeds = seeds_of(torch.tensor([[0.0], [0.25], [0.25 + 2**-53]], dtype=torch.float64))
    assert seeds == [0, 2**51, 2**51 + 1]
