"""Noun phrases of captions as short captions of their own, each with a masked word (LAIP, arXiv 2406.10845, Sec. II-B).

Shapes: B captions, L tokens, M phrases of all captions, T tokens of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tbps.text.token_batch import Captions, pad_rows


@dataclass(kw_only=True)
class PhraseTable:
    """Phrases of a batch, on the host, in the order of their captions."""

    captions: Captions
    """2M rows of [CLS] and the phrase's tokens: all phrases, then all of them with a masked word."""
    caption_M: NDArray[np.int64]
    """Row of the batch that each phrase belongs to."""
    position_M: NDArray[np.int64]
    """Place of the masked word in the phrase, 1 or more."""
    label_M: NDArray[np.int64]
    """The word that stood there."""
    words_M: NDArray[np.int64]
    """Equal numbers for phrases of the same words."""
    weight_M: NDArray[np.float32]
    """Share of each phrase in a loss: 1 / B, so that losses add up over a caption's phrases (Eq. 12) and are a mean over
    captions."""

    @property
    def num_phrases(self) -> int:
        """Phrases that count."""
        return int((self.weight_M > 0).sum())


def phrase_table(
    token_ids_BL: NDArray[np.int64],
    chunk_id_BL: NDArray[np.int64],
    uniform_BL: NDArray[np.float64],
    *,
    mask_id: int,
    group_pairs: int = 0,
) -> PhraseTable:
    """Every chunk of every caption becomes a phrase; one of its tokens is masked.

    token_ids_BL starts with [CLS]; chunk_id_BL 0 or the token's chunk; uniform_BL in [0, 1): the number at a phrase's first
    token chooses which of its tokens is masked. Where no caption of a group (0 = all are one group) has a phrase, the first
    word of its first caption stands in with weight 0, so that every weight of the method still gets a (zero) gradient.
    """
    group_pairs = group_pairs or len(chunk_id_BL)
    without = group_pairs * np.flatnonzero(~chunk_id_BL.reshape(len(chunk_id_BL) // group_pairs, -1).any(1))
    chunk_BL = chunk_id_BL.copy()
    chunk_BL[without, 1] = 1
    rows = [
        (caption, np.flatnonzero(chunk_L == number))
        for caption, chunk_L in enumerate(chunk_BL)
        for number in range(1, int(chunk_L.max()) + 1)
        if (chunk_L == number).any()
    ]
    whole, masked, places, labels = [], [], [], []
    for caption, tokens in rows:
        ids = token_ids_BL[caption, np.concatenate([[0], tokens])]
        place = 1 + int(uniform_BL[caption, tokens[0]] * len(tokens))
        whole.append(torch.from_numpy(ids))
        masked.append(whole[-1].clone())
        masked[-1][place] = mask_id
        places.append(place)
        labels.append(int(ids[place]))
    lengths = tuple(len(ids) for ids in whole)
    ids_ST = pad_rows([*whole, *masked], length=max(lengths))
    known: dict[bytes, int] = {}
    caption_M = np.array([caption for caption, _ in rows], np.int64)
    return PhraseTable(
        captions=Captions(token_ids_BL=ids_ST, lengths=lengths * 2, chunk_id_BL=torch.zeros_like(ids_ST)),
        caption_M=caption_M,
        position_M=np.array(places, np.int64),
        label_M=np.array(labels, np.int64),
        words_M=np.array([known.setdefault(ids.numpy().tobytes(), len(known)) for ids in whole], np.int64),
        weight_M=np.where(np.isin(caption_M, without), 0, 1 / len(token_ids_BL)).astype(np.float32),
    )
