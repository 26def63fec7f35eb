"""BERT masking of captions, on the host: which positions are predicted and what stands there instead."""

from __future__ import annotations

import torch
from torch import Tensor

from tbps.data.batch import TokenMask


def mask_tokens(token_ids_BL: Tensor, mask: TokenMask, *, cls_id: int, mask_id: int) -> tuple[Tensor, Tensor]:
    """Masked ids (B, L) and chosen positions (B, L) bool.

    Chosen: mask.select, never padding (0) nor [CLS]. Of the chosen: [MASK] where mask.mask_BL; else the random word where
    mask.random_BL; else unchanged. Source: BERT, Sec. 3.1 (80 / 10 / 10).
    """
    chosen_BL = mask.select_BL & (token_ids_BL != 0) & (token_ids_BL != cls_id)
    masked_BL = torch.where(chosen_BL & mask.mask_BL, mask_id, token_ids_BL)
    masked_BL = torch.where(chosen_BL & ~mask.mask_BL & mask.random_BL, mask.word_BL, masked_BL)
    return masked_BL, chosen_BL
