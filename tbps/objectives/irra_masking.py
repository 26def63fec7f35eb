"""Which tokens of a caption IRRA masks, and what stands there instead. On the host.

Shapes: B captions, L tokens of the longest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PROBABILITY = 0.15
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the chosen tokens; the others stay."""
FIRST_WORD = 1
"""Random words are those of ids 1 to mask_id - 1; id 0, "!", also pads captions."""


class MaskedWords(NamedTuple):
    """Captions whose words are to be guessed."""

    token_ids_BL: Tensor
    """(B, L) int64: as it was, but for chosen tokens."""
    chosen_BL: Tensor
    """(B, L) bool: tokens that are to be guessed; at least one of each caption."""


def mask_words(token_ids_BL: Tensor, number_B2L: Tensor, *, mask_id: int, probability: float = PROBABILITY) -> MaskedWords:
    """BERT's masking as IRRA has it: one number chooses a token and says what becomes of it.

    A token t with 0 < t < mask_id, so no padding, start, end or mask, is chosen where its number u is below `probability`:
    the mask where u / probability < 0.8, else a random word where it is < 0.9, else itself.
    In a caption without a chosen token the one at place 1, behind the start, is chosen and masked, whatever it is.

    number_B2L (B, 2, L) uniform in [0, 1): u, and the place of the random word among ids 1 to mask_id - 1.
    Source: IRRA, arXiv 2303.12501, by its code (anosorae/IRRA datasets/bases.py, _build_random_masked_tokens_and_labels).
    """
    choice_BL, word_BL = number_B2L.unbind(1)
    chosen_BL = (token_ids_BL > 0) & (token_ids_BL < mask_id) & (choice_BL < probability)
    share_BL = choice_BL / probability
    random_BL = (share_BL >= MASK_SHARE) & (share_BL < MASK_SHARE + RANDOM_SHARE)
    count = mask_id - FIRST_WORD
    words_BL = FIRST_WORD + (word_BL * count).long().clamp_(max=count - 1)
    masked_BL = torch.where(chosen_BL & (share_BL < MASK_SHARE), mask_id, token_ids_BL)
    masked_BL = torch.where(chosen_BL & random_BL, words_BL, masked_BL)
    forced_B = ~chosen_BL.any(1)
    masked_BL[:, 1] = torch.where(forced_B, mask_id, masked_BL[:, 1])
    chosen_BL[:, 1] |= forced_B
    return MaskedWords(token_ids_BL=masked_BL, chosen_BL=chosen_BL)
