"""Scaled dot-product attention, by the fastest exact path for the device, type and length."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# On a CPU the fused kernel loses to two matrix products when keys are few (its blocks are mostly empty).
FEW_KEYS = 96


def attention(
    query_SHQd: Tensor, key_SHKd: Tensor, value_SHKd: Tensor, *, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v.

    query_SHQd (S, H, Q, d), key_SHKd and value_SHKd (S, H, K, d); bias broadcastable to (S, H, Q, K), 0 or a large
    negative number; dropout on the probabilities. Returns (S, H, Q, d).
    """
    few = query_SHQd.device.type == "cpu" and key_SHKd.shape[2] <= FEW_KEYS
    if not few:
        return F.scaled_dot_product_attention(query_SHQd, key_SHKd, value_SHKd, attn_mask=bias, dropout_p=dropout)
    logit_SHQK = (query_SHQd * query_SHQd.shape[-1] ** -0.5) @ key_SHKd.transpose(2, 3)
    if bias is not None:
        logit_SHQK = logit_SHQK + bias
    weight_SHQK = logit_SHQK.softmax(-1)
    if dropout:
        weight_SHQK = F.dropout(weight_SHQK, dropout)
    return weight_SHQK @ value_SHKd


def split_heads(x_SLD: Tensor, heads: int) -> Tensor:
    """(S, L, heads * d) to (S, heads, L, d)."""
    return x_SLD.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x_SHLd: Tensor) -> Tensor:
    """(S, heads, L, d) to (S, L, heads * d)."""
    return x_SHLd.transpose(1, 2).flatten(2)
