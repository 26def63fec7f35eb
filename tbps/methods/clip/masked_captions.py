"""Captions of a batch with masked words, and which words were masked: all on the host."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tbps.nn.packing import Index
from tbps.objectives.irra_masking import mask_words
from tbps.text.token_batch import Captions


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedCaptions:
    """B captions of at most L tokens, of which M words are to be guessed."""

    token_ids_BL: Tensor
    """(B, L) int64, masks in place."""
    caption_M: Index
    """Number of the caption that each masked word is in."""
    place_M: Index
    """Place of each masked word in its caption, counted in tokens."""
    word_M: Index
    """Id of the word that stood there."""
    count_B: Index
    """How many words of each caption are masked."""


def mask_captions(captions: Captions, number_B2L: Tensor, *, mask_id: int, probability: float) -> MaskedCaptions:
    """Mask words as IRRA does (tbps/objectives/irra_masking.py); number_B2L: uniform random numbers of each token."""
    ids_BL = captions.token_ids_BL
    masked = mask_words(ids_BL, number_B2L, mask_id=mask_id, probability=probability)
    chosen_BL = masked.chosen_BL.numpy()
    caption_M, place_M = chosen_BL.nonzero()
    return MaskedCaptions(
        token_ids_BL=masked.token_ids_BL,
        caption_M=caption_M,
        place_M=place_M,
        word_M=ids_BL.numpy()[caption_M, place_M],
        count_B=chosen_BL.sum(1),
    )
