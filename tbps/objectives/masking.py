"""BERT masking of captions, on the host: which positions are predicted and what stands there instead.

Shapes: B captions, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from tbps.text.token_batch import Captions


@dataclass(kw_only=True)
class TokenMask:
    """What masking would do at each token (host tensors)."""

    select_BL: Tensor
    """(B, L) bool: the position is chosen, before padding and special tokens are protected."""
    mask_BL: Tensor
    """(B, L) bool, true with 0.8: a chosen position becomes [MASK]."""
    random_BL: Tensor
    """(B, L) bool, true with 0.5: a chosen position that is not [MASK] becomes a random word."""
    word_BL: Tensor
    """(B, L) int64: that random word."""


def token_mask(number_B4L: Tensor, *, probability: float, words: range) -> TokenMask:
    """Masks made of four numbers for each token: is it chosen, is it [MASK], is it another word, which one.

    number_B4L (B, 4, L) uniform in [0, 1), 1 beyond the end of a caption, where nothing is chosen; probability: share of
    chosen tokens; words: ids of which the random word is one. Source: BERT (arXiv 1810.04805), Sec. 3.1.
    """
    select_BL, mask_BL, random_BL, word_BL = number_B4L.unbind(1)
    return TokenMask(
        select_BL=select_BL < probability,
        mask_BL=mask_BL < 0.8,
        random_BL=random_BL < 0.5,
        word_BL=words.start + (word_BL * len(words)).long().clamp_(max=len(words) - 1),
    )


def maskable(captions: Captions, *, special_ids: Collection[int]) -> Tensor:
    """(B, L) bool: tokens that stand for a piece of a caption, neither padding nor special (start, end)."""
    maskable_BL = captions.real_BL
    for special_id in special_ids:
        maskable_BL &= captions.token_ids_BL != special_id
    return maskable_BL


def mask_tokens(captions: Captions, mask: TokenMask, *, special_ids: Collection[int], mask_id: int) -> tuple[Tensor, Tensor]:
    """Masked ids (B, L) and chosen positions (B, L) bool.

    Chosen: mask.select where a token may be masked. Of the chosen: [MASK] where mask.mask_BL; else the random word where
    mask.random_BL; else unchanged. Source: BERT (arXiv 1810.04805), Sec. 3.1 (80 / 10 / 10).
    """
    token_ids_BL = captions.token_ids_BL
    chosen_BL = mask.select_BL & maskable(captions, special_ids=special_ids)
    masked_BL = torch.where(chosen_BL & mask.mask_BL, mask_id, token_ids_BL)
    masked_BL = torch.where(chosen_BL & ~mask.mask_BL & mask.random_BL, mask.word_BL, masked_BL)
    return masked_BL, chosen_BL
