"""Which words APTM masks: single words and runs of up to three, a fixed number of pieces of each caption. On the host.

Shapes: B captions, L tokens of the longest, M masked places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tbps.text.token_batch import Captions

RUN_PROBABILITY, LONGEST_RUN = 0.2, 3
"""How often consecutive places are taken, two or three of them."""
MASK_SHARE, RANDOM_SHARE = 0.8, 0.5
"""Of the chosen places; of the others. The rest stays."""
Index = NDArray[np.int64]


@dataclass(kw_only=True)
class MaskedSpans:
    """Captions whose words are to be guessed."""

    token_ids_BL: Index
    """Masked; as long as the longest row that was looked at."""
    row_M: Index
    """Caption of each place."""
    position_M: Index
    word_M: Index
    """What stood there."""


def mask_spans(
    captions: Captions,
    seed_B: Sequence[int],
    *,
    share: float,
    most: int,
    mask_id: int,
    vocabulary_size: int,
    has_end: bool,
    padded_to: int = 0,
) -> MaskedSpans:
    """Mask each caption by random numbers of its own.

    n = min(most, max(1, round(share * length))) pieces. Places are visited in random order; each is taken with the pieces
    before and behind it that belong to its word, with probability 0.2 with one or two places behind it too; what is more
    than n is dropped at random. Of the taken, 80 % become [MASK], half of the rest any id of the vocabulary, the others
    stay.

    captions: with `starts_BL`; seed_B: of each; has_end: they end with [SEP]. padded_to: 0, and then length counts the
    words' pieces, of which any may be masked; or, as the official code, the length to which captions are filled up, which
    counts [CLS], [SEP] and padding, and of which all but [CLS] may be masked: half of the guesses of a short caption are
    padding.
    Source: APTM, arXiv 2306.02898, by its code (Shuyu-XJTU/APTM dataset/re_dataset.py, TextMaskingGenerator).
    """
    assert captions.starts_BL is not None, "needs.word_starts says that they are marked"
    ids_BL, starts_BL = captions.token_ids_BL.numpy().copy(), captions.starts_BL.numpy()
    if padded_to > ids_BL.shape[1]:
        beyond = ((0, 0), (0, padded_to - ids_BL.shape[1]))
        ids_BL, starts_BL = np.pad(ids_BL, beyond), np.pad(starts_BL, beyond, constant_values=True)
    rows, positions, words = [], [], []
    for row, length in enumerate(captions.lengths):
        random = np.random.Generator(np.random.SFC64(seed_B[row]))
        places = range(1, padded_to) if padded_to else range(1, length - has_end)
        number = min(most, max(1, round(share * (padded_to or len(places)))))
        chosen = choose_places(starts_BL[row].tolist(), places, number=number, random=random)
        rows += [row] * len(chosen)
        positions += chosen
        words += ids_BL[row, chosen].tolist()
        for place in chosen:
            if random.random() < MASK_SHARE:
                ids_BL[row, place] = mask_id
            elif random.random() < RANDOM_SHARE:
                ids_BL[row, place] = random.integers(vocabulary_size)
    return MaskedSpans(
        token_ids_BL=ids_BL,
        row_M=np.asarray(rows, np.int64),
        position_M=np.asarray(positions, np.int64),
        word_M=np.asarray(words, np.int64),
    )


def choose_places(starts: Sequence[bool], places: range, *, number: int, random: np.random.Generator) -> list[int]:
    """At most `number` of `places`, in order. starts: whether the piece at each place begins a word.

    Example: pieces "[CLS] a pur ##ple hat", number 2: {2, 3} where either piece of "purple" came first.
    """
    chosen: set[int] = set()
    for place in random.permutation(np.arange(places.start, places.stop)).tolist():
        if len(chosen) >= number:
            break
        if place in chosen:
            continue
        run = int(random.integers(2, LONGEST_RUN + 1)) if random.random() < RUN_PROBABILITY else 1
        first, end = place, place + run
        while first > 0 and not starts[first]:
            first -= 1
        while end < len(starts) and not starts[end]:
            end += 1
        chosen.update(range(max(first, places.start), min(end, places.stop)))
    found = sorted(chosen)
    if len(found) > number:
        found = sorted(random.permutation(found)[:number].tolist())
    return found


def seeds_of(number_B1: torch.Tensor) -> list[int]:
    """Seeds for `mask_spans` of one uniform number in [0, 1) for each caption, float64."""
    return (number_B1[:, 0] * 2.0**53).long().tolist()
