"""Scaled dot-product attention, by the fastest exact path for the device, type and length."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tbps.nn.dropout import Groups, Site, drop

# On a CPU the fused kernel loses to two matrix products when keys are few (its blocks are mostly empty).
FEW_KEYS = 96
_NOTHING_DROPPED = Site(probability=0.0)
_WITHOUT_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attention(
    query_SHQd: Tensor,
    key_SHKd: Tensor,
    value_SHKd: Tensor,
    *,
    bias: Tensor | None = None,
    causal: bool = False,
    site: Site = _NOTHING_DROPPED,
    group: int = 0,
    ragged: bool = False,
) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v.

    query_SHQd (S, H, Q, d), key_SHKd and value_SHKd (S, H, K, d); bias broadcastable to (S, H, Q, K), 0 or a large
    negative number; `causal`, instead of a bias: query i sees the keys 0 to i; dropout on the probabilities at `site`,
    where all sequences are of `group`. ragged: such shapes hardly ever come again, so no kernel may be taken that is
    planned for one shape (cuDNN's: tens of milliseconds of the host for each). Returns (S, H, Q, d).
    """
    assert bias is None or not causal, "a causal mask and a bias exclude each other in torch's fused kernel"
    if causal and not site.probability and query_SHQd.device.type != "cpu":
        return F.scaled_dot_product_attention(query_SHQd, key_SHKd, value_SHKd, is_causal=True)
    if causal:
        bias = _later_keys(query_SHQd, key_SHKd)
    if _fused(query_SHQd, num_keys=key_SHKd.shape[2], dropout=site.probability):
        with sdpa_kernel(_WITHOUT_PLANS) if ragged and query_SHQd.device.type == "cuda" else nullcontext():
            return fused_attention(query_SHQd, key_SHKd, value_SHKd, bias=bias, site=site, group=group)
    logit_SHQK = (query_SHQd * query_SHQd.shape[-1] ** -0.5) @ key_SHKd.transpose(2, 3)
    if bias is not None:
        logit_SHQK = logit_SHQK + bias
    probability_SHQK = logit_SHQK.softmax(-1).to(value_SHKd.dtype)
    return drop(probability_SHQK, site, Groups(numbers=(group,), rows=(query_SHQd.shape[0],))) @ value_SHKd


def fused_attention(
    query_SHQd: Tensor, key_SHKd: Tensor, value_SHKd: Tensor, *, bias: Tensor | None, site: Site, group: int
) -> Tensor:
    """`attention` by torch's fused kernel, which draws dropout's numbers from the device's own generator."""
    if site.probability:
        site.seed_device(query_SHQd.device, group)
    return F.scaled_dot_product_attention(query_SHQd, key_SHKd, value_SHKd, attn_mask=bias, dropout_p=site.probability)


def mean_attention(query_SHQd: Tensor, key_SHKd: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """What each query attends to, mean over heads: (S, Q, K) float32, before dropout.

    For a few rows beside a fused kernel, which keeps no probabilities; no map of all queries is made.
    """
    logit_SHQK = (query_SHQd * query_SHQd.shape[-1] ** -0.5) @ key_SHKd.transpose(2, 3)
    if bias is not None:
        logit_SHQK = logit_SHQK + bias
    return logit_SHQK.float().softmax(-1).mean(1)


def _later_keys(query_SHQd: Tensor, key_SHKd: Tensor) -> Tensor:
    """(Q, K): minus infinity where a key comes after the query, else 0."""
    shape = (query_SHQd.shape[2], key_SHKd.shape[2])
    return torch.full(shape, float("-inf"), dtype=query_SHQd.dtype, device=query_SHQd.device).triu(1)


def _fused(query: Tensor, *, num_keys: int, dropout: float) -> bool:
    """Whether to use the fused kernel: always on a GPU; on a CPU in plain float32 without dropout.

    There it is as fast as two products and keeps no probabilities for backward. With dropout torch leaves it for a slower
    path; with oneDNN's products (see tbps/training/precision.py) its small blocks take three times as long, and bfloat16
    is slower too.
    """
    if query.device.type != "cpu":
        return True
    plain_float32 = query.dtype == torch.float32 and matmul_precision() == "highest"
    return plain_float32 and not dropout and num_keys > FEW_KEYS


def matmul_precision() -> str:
    """What torch multiplies float32 with; of a run it is one. Where graphs are compiled they need not ask again."""
    return torch.get_float32_matmul_precision()


def split_heads(x_SLD: Tensor, heads: int) -> Tensor:
    """(S, L, heads * d) to (S, heads, L, d)."""
    return x_SLD.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x_SHLd: Tensor) -> Tensor:
    """(S, heads, L, d) to (S, L, heads * d)."""
    return x_SHLd.transpose(1, 2).flatten(2)
