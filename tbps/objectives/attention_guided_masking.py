"""Attention-guided masking: words that [CLS] attends to are masked more often. Source: AGA, Sec. III-B (papers: aga).

Shapes: K text layers, B captions, L tokens of the longest.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["ema", "mean", "last"]


@torch.no_grad()
def aggregate_class_attention(attention_KBL: Tensor, *, aggregation: Aggregation, beta: float) -> Tensor:
    """a_K of a_k = beta a_(k-1) + (1 - beta) attention_k with a_0 = 0 (ema); or the mean of layers; or the last.

    attention_KBL (K, B, L): the [CLS] row of each layer, first layer first. Returns (B, L). Source: AGA, Eq. 7, Table IV.
    Check: with the same attention in all layers, ema gives it times 1 - beta ** K.
    """
    if aggregation == "last":
        return attention_KBL[-1]
    if aggregation == "mean":
        return attention_KBL.mean(0)
    ages = torch.arange(len(attention_KBL) - 1, -1, -1, device=attention_KBL.device, dtype=attention_KBL.dtype)
    weight_K = (1 - beta) * beta**ages
    return (weight_K[:, None, None] * attention_KBL).sum(0)


@torch.no_grad()
def mask_probability(
    attention_BL: Tensor, is_word_BL: Tensor, *, alpha_1: float, alpha_2: float, temperature: float
) -> Tensor:
    """p_i = alpha_1 + alpha_2 n softmax(a / T)_i over the n words of a caption, cut to 0..1; 0 elsewhere.

    attention_BL (B, L); is_word_BL (B, L) bool: false for [CLS] and padding. Returns (B, L) float32; a caption without a
    word gets zeros. Source: AGA, Eq. 8-9. Differs: the paper prints alpha_1 + alpha_2 softmax_i, whose mean is near
    alpha_1 for a caption of many words; its "about 15 %" needs the factor n, which also makes the share of masked words
    independent of the length.
    Check: equal attention gives alpha_1 + alpha_2 everywhere.
    """
    # A finite number, so that a caption without words gives no NaN.
    logit_BL = (attention_BL.float() / temperature).masked_fill(~is_word_BL, torch.finfo(torch.float32).min)
    words_B1 = is_word_BL.sum(1, keepdim=True)
    return (alpha_1 + alpha_2 * words_B1 * logit_BL.softmax(1)).clamp(0, 1) * is_word_BL


@torch.no_grad()
def vacuous_mask_probability(is_vacuous_BL: Tensor, is_word_BL: Tensor, *, probability: float) -> Tensor:
    """Only semantically vacuous words are masked, so often that a share `probability` of all words is.

    p_i = min(1, probability n / n_vacuous) at vacuous words, 0 elsewhere: (B, L) float32. Source: AGA, Table I, "picked";
    the paper does not say how often, keeping the share of masked words is ours.
    """
    vacuous_BL = is_vacuous_BL & is_word_BL
    share_B1 = probability * is_word_BL.sum(1, keepdim=True) / vacuous_BL.sum(1, keepdim=True).clamp(min=1)
    return share_B1.clamp(max=1) * vacuous_BL
