"""BERT masking of captions, on the host: which positions are predicted and what stands there instead.

Shapes: B captions, L tokens of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(kw_only=True)
class TokenMask:
    """What masking would do at each token (host tensors)."""

    select_BL: Tensor
    """(B, L) bool: the position is chosen, before [CLS] and padding are protected."""
    mask_BL: Tensor
    """(B, L) bool, true with 0.8: a chosen position becomes [MASK]."""
    random_BL: Tensor
    """(B, L) bool, true with 0.5: a chosen position that is not [MASK] becomes a random word."""
    word_BL: Tensor
    """(B, L) int64: that random word."""


def token_mask(number_B4L: Tensor, *, probability: float, words: range) -> TokenMask:
    """Masks made of four numbers for each token: is it chosen, is it [MASK], is it another word, which one.

    number_B4L (B, 4, L) uniform in [0, 1), 1 beyond the end of a caption, where nothing is chosen; probability: share of
    chosen tokens; words: ids of which the random word is one. Source: BERT, Sec. 3.1.
    """
    select_BL, mask_BL, random_BL, word_BL = number_B4L.unbind(1)
    return TokenMask(
        select_BL=select_BL < probability,
        mask_BL=mask_BL < 0.8,
        random_BL=random_BL < 0.5,
        word_BL=words.start + (word_BL * len(words)).long().clamp_(max=len(words) - 1),
    )


def mask_tokens(token_ids_BL: Tensor, mask: TokenMask, *, cls_id: int, mask_id: int) -> tuple[Tensor, Tensor]:
    """Masked ids (B, L) and chosen positions (B, L) bool.

    Chosen: mask.select, never padding (0) nor [CLS]. Of the chosen: [MASK] where mask.mask_BL; else the random word where
    mask.random_BL; else unchanged. Source: BERT, Sec. 3.1 (80 / 10 / 10).
    """
    chosen_BL = mask.select_BL & (token_ids_BL != 0) & (token_ids_BL != cls_id)
    masked_BL = torch.where(chosen_BL & mask.mask_BL, mask_id, token_ids_BL)
    masked_BL = torch.where(chosen_BL & ~mask.mask_BL & mask.random_BL, mask.word_BL, masked_BL)
    return masked_BL, chosen_BL
