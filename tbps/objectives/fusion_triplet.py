"""Fusion triplet: a matching score must beat those of both hard negatives by a margin."""

from __future__ import annotations

import torch
from torch import Tensor

from tbps.objectives.group_mean import group_mean


def fusion_triplet_loss(score_R: Tensor, *, margin: float, has_negative_B: Tensor, group_pairs: int) -> Tensor:
    """[m - s(I, T) + s(I, T-)]+ + [m - s(I, T) + s(I-, T)]+, mean over the pairs of a group, then over groups.

    score_R (3B,): matched logit of B pairs, B (negative image, caption), B (image, negative caption); has_negative_B (B,)
    bool: a pair whose group holds no other identity is not counted. Source: LAIP (arXiv 2406.10845), Eq. 20.
    """
    matched_B, image_B, caption_B = score_R.float().chunk(3)
    value_B = (margin - matched_B + caption_B).relu() + (margin - matched_B + image_B).relu()
    num_pairs = len(has_negative_B)
    group_B = torch.arange(num_pairs, device=score_R.device) // group_pairs
    return group_mean(value_B, group_B, num_groups=num_pairs // group_pairs, weight_R=has_negative_B.float())
