"""Image-text matching: a two-way head on the cross encoder's [CLS] (class 1 = matched), or one logit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tbps.objectives.group_mean import group_mean


def matching_loss(logit_R2: Tensor, *, has_negative_B: Tensor, group_pairs: int) -> Tensor:
    """CE of 3B rows: B positives, B (negative image, caption), B (image, negative caption).

    logit_R2 (3B, 2); has_negative_B (B,) bool: rows whose group holds no other identity have no negatives, and count
    with their positive only. Mean over the rows of a group, then over groups.
    Source: ALBEF (arXiv 2107.07651), Eq. 4; RaSa calls it p-ITM, its positives include weak ones.
    """
    num_pairs = len(has_negative_B)
    label_R = (torch.arange(3 * num_pairs, device=logit_R2.device) < num_pairs).long()
    group_B = torch.arange(num_pairs, device=logit_R2.device) // group_pairs
    weight_R = torch.cat([torch.ones_like(has_negative_B), has_negative_B, has_negative_B]).float()
    value_R = F.cross_entropy(logit_R2.float(), label_R, reduction="none")
    return group_mean(value_R, group_B.repeat(3), num_groups=num_pairs // group_pairs, weight_R=weight_R)


def binary_matching_loss(logit_R: Tensor, *, has_negative_B: Tensor, group_pairs: int) -> Tensor:
    """Binary CE of one logit a: -log sigmoid(a) of B positives, -log(1 - sigmoid(a)) of B negatives of each kind.

    logit_R (R,): first the positives, then a negative of each pair for every kind of negatives there is (an image for the
    caption, and perhaps a caption for the image); has_negative_B, the mean: as of `matching_loss`.
    Source: BAMG, Eq. 18 to 20. Differs: Eq. 20 prints (1 - y)(1 - log p), a loss without lower bound for negatives; this is
    the usual (1 - y) log(1 - p).
    """
    num_pairs = len(has_negative_B)
    kinds = len(logit_R) // num_pairs - 1
    matched_R = (torch.arange(len(logit_R), device=logit_R.device) < num_pairs).float()
    group_B = torch.arange(num_pairs, device=logit_R.device) // group_pairs
    weight_R = torch.cat([torch.ones_like(has_negative_B), *[has_negative_B] * kinds]).float()
    value_R = F.binary_cross_entropy_with_logits(logit_R.float(), matched_R, reduction="none")
    return group_mean(value_R, group_B.repeat(kinds + 1), num_groups=num_pairs // group_pairs, weight_R=weight_R)
