"""Masked graph modelling: which node of a body's graph is masked, how far a guess of the graph is off, does it collapse.

Shapes: B bodies, K parts, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def choose_masked(present_BK: Tensor, uniform_B: Tensor) -> Tensor:
    """Exactly one part of each body, each of those that are present with the same probability: (B, K) bool.

    present_BK (B, K) bool; uniform_B (B,) in [0, 1), on its device. A body with one visible part has that one masked, a body
    with none has no part masked.
    Source: BAMG, Eq. 11, x_m; that only what is there can be masked is a choice of ours.
    """
    count_B = present_BK.sum(1)
    place_B = (uniform_B * count_B).long().clamp(max=(count_B - 1).clamp(min=0))
    return present_BK & (present_BK.cumsum(1) - 1 == place_B[:, None])


def masked_graph_loss(guess_BKD: Tensor, target_BKD: Tensor, counted_BK: Tensor) -> Tensor:
    """L = 1/B sum_b 1/n_b sum_k c_bk mean_d (guess - target)^2,  n_b = sum_k c_bk; a body with n_b = 0 counts as 0.

    counted_BK (B, K) bool c: nodes that are compared; guess and target (B, K, D). Returns a scalar.
    Source: BAMG, Eq. 15 and 22. Differs: the mean over features, not their sum (the squared norm), which at 512 features
    would outweigh the other losses by two orders; absent parts are not compared.
    """
    squared_BK = (guess_BKD.float() - target_BKD.float()).square().mean(2)
    counted = counted_BK.to(squared_BK.dtype)
    return ((squared_BK * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()


@torch.no_grad()
def target_variance(target_BKD: Tensor, present_BK: Tensor) -> Tensor:
    """Variance of each feature over all nodes that are present, mean over features: a scalar; 0 where all are alike.

    A target that depends on what is trained can become the same for all nodes, which a guess then meets with no error.
    """
    weight_BK1 = present_BK[..., None].to(torch.float32)
    count = weight_BK1.sum().clamp(min=1)
    mean_D = (target_BKD.float() * weight_BK1).sum((0, 1)) / count
    return ((target_BKD.float() - mean_D).square() * weight_BK1).sum((0, 1)).mean() / count
