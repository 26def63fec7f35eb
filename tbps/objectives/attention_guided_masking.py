"""Attention-guided masking: words that [CLS] attends to are masked more often. Source: AGA, Sec. III-B (arXiv 2412.15106).

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
    attention_BL: Tensor,
    is_word_BL: Tensor,
    *,
    alpha_1: float,
    alpha_2: float,
    temperature: float,
    masked_share: float = 0.0,
) -> Tensor:
    """p_i = alpha_1 + alpha_2 n softmax(a / T)_i over the n words of a caption, cut to 0..1; 0 elsewhere.

    attention_BL (B, L); is_word_BL (B, L) bool: false for [CLS] and padding. With masked_share > 0 a caption's p are
    scaled so that their mean over its words is that share (see `scale_to_share`). Returns (B, L) float32; a caption without
    a word gets zeros. Source: AGA, Eq. 8-9. Differs: the paper prints alpha_1 + alpha_2 softmax_i, whose mean is near
    alpha_1 for a caption of many words; the factor n makes the share of masked words independent of the length. n softmax
    averages 1, so that share is alpha_1 + alpha_2, 20 % with the paper's values, less what is cut off above 1 where
    attention is sharp; the paper says about 15 %, which masked_share = 0.15 gives.
    Check: equal attention gives alpha_1 + alpha_2 everywhere.
    """
    # A finite number, so that a caption without words gives no NaN.
    logit_BL = (attention_BL.float() / temperature).masked_fill(~is_word_BL, torch.finfo(torch.float32).min)
    words_B1 = is_word_BL.sum(1, keepdim=True)
    probability_BL = (alpha_1 + alpha_2 * words_B1 * logit_BL.softmax(1)).clamp(0, 1) * is_word_BL
    return scale_to_share(probability_BL, is_word_BL, masked_share) if masked_share else probability_BL


@torch.no_grad()
def scale_to_share(probability_BL: Tensor, is_word_BL: Tensor, share: float) -> Tensor:
    """min(1, c p) with the c, one for each caption, for which the mean over the words is `share`: (B, L).

    Words whose c p passes 1 are certain; c spreads what is left over the others. c is found among the sorted
    probabilities: with the k largest certain, c = (share n - k) / (sum of the others), and the smallest k counts for which
    the next word stays at or below 1. Where too few words have any probability, the mean is what they give.
    """
    total_B1 = share * is_word_BL.sum(1, keepdim=True)
    sorted_BL = probability_BL.sort(1, descending=True).values
    # What is left when the 0, 1, ..., L - 1 largest are certain.
    rest_BL = sorted_BL.flip(1).cumsum(1).flip(1)
    certain_L = torch.arange(sorted_BL.shape[1], device=sorted_BL.device)
    scale_BL = (total_B1 - certain_L).clamp(min=0) / rest_BL.clamp(min=1e-30)
    fits_BL = scale_BL * sorted_BL <= 1
    first_B1 = fits_BL.int().argmax(1, keepdim=True)
    return (probability_BL * scale_BL.gather(1, first_B1)).clamp(max=1)


@torch.no_grad()
def vacuous_mask_probability(is_vacuous_BL: Tensor, is_word_BL: Tensor, *, probability: float) -> Tensor:
    """Only semantically vacuous words are masked, so often that a share `probability` of all words is.

    p_i = min(1, probability n / n_vacuous) at vacuous words, 0 elsewhere: (B, L) float32. Source: AGA, Table I, "picked";
    the paper does not say how often, keeping the share of masked words is ours.
    """
    vacuous_BL = is_vacuous_BL & is_word_BL
    share_B1 = probability * is_word_BL.sum(1, keepdim=True) / vacuous_BL.sum(1, keepdim=True).clamp(min=1)
    return share_B1.clamp(max=1) * vacuous_BL
