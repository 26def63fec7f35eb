"""Six parts of a body, in the labels of Pascal-Person-Part, in the patches of an image, and in its tokens.

Shapes: B images of height H and width W, N patches, K = 6 parts, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

PARTS = ("head", "torso", "left arm", "right arm", "left leg", "right leg")
"""Nodes of the body graph (BAMG, Eq. 10). Left and right are those of the image, so a mirrored image exchanges them."""
TORSO = PARTS.index("torso")

_TORSO_LABEL = 2
# Labels of Pascal-Person-Part: background, head, torso, upper arms, lower arms, upper legs, lower legs.
_LOWER_ARMS_LABEL, _LOWER_LEGS_LABEL = 4, 6
_FIRST_LIMB = 3


def split_parts(map_BHW: Tensor) -> Tensor:
    """Labels of Pascal-Person-Part to parts: (B, H, W) int64, 0 = background, 1 to 6 = PARTS in their order.

    That data set tells no left from right. An arm or leg pixel is the left one's where its column lies left of the torso's
    centroid, or, where no torso is seen, of the whole person's.
    """
    column_W = torch.arange(map_BHW.shape[2], device=map_BHW.device, dtype=torch.float32)
    torso_BHW, person_BHW = map_BHW == _TORSO_LABEL, map_BHW > 0
    seen_B11 = torso_BHW.flatten(1).any(1)[:, None, None]
    middle_BHW = torch.where(seen_B11, torso_BHW, person_BHW)
    centre_B = (middle_BHW * column_W).sum((1, 2)) / middle_BHW.sum((1, 2)).clamp(min=1)
    part_BHW = map_BHW.long()
    # A lower limb is part of the upper one, whose label is one less; of arms and legs that is the left one's part.
    part_BHW = part_BHW - ((map_BHW == _LOWER_ARMS_LABEL) | (map_BHW == _LOWER_LEGS_LABEL)).long()
    right_BHW = column_W >= centre_B[:, None, None]
    return part_BHW + ((part_BHW >= _FIRST_LIMB) & right_BHW)


def pool_parts(token_BND: Tensor, share_BNK: Tensor) -> Tensor:
    """Mean token of each part, each patch counted by how much of it shows the part: (B, K, D); 0 where nothing does.

    share_BNK: share of each patch's pixels that show each part, float32; what is missing to 1 is background.
    """
    weight_BKN = share_BNK.transpose(1, 2)
    weight_BKN = weight_BKN / weight_BKN.sum(2, keepdim=True).clamp(min=1e-12)
    return weight_BKN.to(token_BND.dtype) @ token_BND


def spread_parts(node_BKD: Tensor, share_BNK: Tensor, present_BK: Tensor) -> Tensor:
    """What each patch shows, as features: (B, N, D). Nodes, weighted by the shares of their parts; the background counts as
    the mean node of the parts that are present (of all where none is), `graph_mean`."""
    background_BN1 = (1 - share_BNK.sum(2, keepdim=True)).clamp(min=0)
    mean_B1D = graph_mean(node_BKD, present_BK)[:, None]
    return share_BNK.to(node_BKD.dtype) @ node_BKD + background_BN1.to(node_BKD.dtype) * mean_B1D


def graph_mean(node_BKD: Tensor, present_BK: Tensor) -> Tensor:
    """Mean over the nodes whose parts are present: (B, D); over all nodes where none is."""
    counted_BK = (present_BK | ~present_BK.any(1, keepdim=True)).to(node_BKD.dtype)
    return (counted_BK[..., None] * node_BKD).sum(1) / counted_BK.sum(1, keepdim=True)
