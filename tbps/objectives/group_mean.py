"""Means inside groups of pairs, then over groups: the reduction every objective shares.

R rows (pairs, sequences or tokens), G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_mean(value_R: Tensor, group_R: Tensor, *, num_groups: int, weight_R: Tensor | None = None) -> Tensor:
    """mean_g( sum_{r in g} w_r v_r / sum_{r in g} w_r ); a group without weight counts as 0.

    value_R (R,) float; group_R (R,) int64; weight_R (R,) float, default 1. Returns a scalar.
    Sums run over a dense (G, R) table, not by scattered addition: the same bits on every run, on a GPU too.
    """
    member_GR = group_R == torch.arange(num_groups, device=group_R.device)[:, None]
    share_GR = member_GR.to(value_R.dtype) if weight_R is None else member_GR * weight_R
    total_G = (share_GR * value_R).sum(1)
    return (total_G / share_GR.sum(1).clamp(min=1e-12)).mean()
