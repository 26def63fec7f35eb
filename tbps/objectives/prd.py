"""Positive relation detection: strong (0) or weak (1) pair, from the cross encoder's [CLS]."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def relation_loss(logit_B2: Tensor, replaced_B: Tensor) -> Tensor:
    """CE(logit, replaced), mean over pairs (groups are of one size, so over groups too).

    logit_B2 (B, 2) of the positive pairs; replaced_B (B,) int64. Source: RaSa (arXiv 2305.13653), as MARS, Eq. 3.
    """
    return F.cross_entropy(logit_B2.float(), replaced_B)
