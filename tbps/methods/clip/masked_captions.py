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
    """Caption of each masked word."""
    place_M: Index
    """Its place there."""
    word_M: Index
    """What stood there: its id."""
    count_B: Index
    """Masked words of each caption."""


def mask_captions(captions: Captions, number_B2L: Tensor, *, mask_id: int, probability: float) -> MaskedCaptions:
    """As IRRA masks them, by these uniform numbers; see tbps/objectives/irra_masking.py."""
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
