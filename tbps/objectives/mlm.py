"""Masked language modelling with momentum distillation.

Shapes: M masked positions, V words, B captions of up to L tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tbps.objectives.group_mean import group_mean


def masked_word_loss(
    logit_MV: Tensor,
    label_M: Tensor,
    momentum_logit_MV: Tensor,
    *,
    alpha: float,
    group_M: Tensor,
    num_groups: int,
    soft_log_MV: Tensor | None = None,
) -> Tensor:
    """(1 - alpha) CE(label, p) - alpha sum_v softmax(m)_v log p_v, mean over a group's positions, then over groups.

    logit_MV, momentum_logit_MV (M, V): online and momentum word logits (m) at masked positions; label_M (M,) int64;
    soft_log_MV: the log p of the second term, default log_softmax(logit) over words. A group without a masked position
    counts as 0. Source: ALBEF (arXiv 2107.07651), Eq. 3 and 7.
    """
    log_MV = logit_MV.float().log_softmax(1)
    value_M = F.nll_loss(log_MV, label_M, reduction="none")
    if alpha:
        soft_M = -(momentum_logit_MV.float().softmax(1) * (log_MV if soft_log_MV is None else soft_log_MV)).sum(1)
        value_M = (1 - alpha) * value_M + alpha * soft_M
    return group_mean(value_M, group_M, num_groups=num_groups)


def log_softmax_over_positions(logit_NV: Tensor, grid_BL: Tensor, tokens_B: Tensor) -> Tensor:
    """The official RaSa and MARS soft term: log_softmax over the positions of a caption instead of over words.

    logit_NV (N, V) word logits of every computed token; grid_BL (B, L) row of token l of caption b; tokens_B (B,) computed
    tokens. Returns (B, L, V), -inf beyond a caption's tokens. A typo of early ALBEF code (salesforce/ALBEF issue 58) that
    is behind the published numbers; exact only when padding is computed too.
    """
    logit_BLV = logit_NV.float()[grid_BL]
    absent_BL = torch.arange(grid_BL.shape[1], device=grid_BL.device) >= tokens_B[:, None]
    return logit_BLV.masked_fill(absent_BL[..., None], -torch.inf).log_softmax(1)
