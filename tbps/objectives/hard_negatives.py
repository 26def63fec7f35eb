"""Hard negatives inside a group: a near pair of another identity.

Shapes: B pairs in groups of g.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def negative_weights(logit_Bg: Tensor, identity_B: Tensor, *, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """Probability of each pair of the group as negative of each row, and which rows have any.

    p_ij = softmax_j(logit_ij) over pairs of other identities. logit_Bg (B, g): similarities over the temperature to the
    members of the row's group; identity_B (B,). Returns (B, g) rows that sum to 1 (0 where the group has one identity
    only) and (B,) bool.
    Source: ALBEF (arXiv 2107.07651), Sec. 3.1. Differs: the softmax runs over the other identities alone; the official code
    zeroes the own identity afterwards, which is the same distribution but underflows once the model is sure of its pairs.
    With a floor f, as APTM's code has it: p_ij = softmax_j(logit_ij) over the whole group, own identity too, plus f; rows
    then do not sum to 1.
    """
    same_Bg = _same_identity(identity_B, logit_Bg.shape[1])
    has_B = ~same_Bg.all(1)
    if floor:
        return (logit_Bg.float().softmax(1) + floor).masked_fill(same_Bg, 0.0), has_B
    weight_Bg = logit_Bg.float().masked_fill(same_Bg, -torch.inf).softmax(1)
    return torch.where(has_B[:, None], weight_Bg, 0.0), has_B


@torch.no_grad()
def draw_negatives(weight_Bg: Tensor, uniform_B: Tensor) -> Tensor:
    """Batch rows of the drawn negatives: the first member whose cumulated weight exceeds uniform * total.

    weight_Bg (B, g) non-negative; uniform_B (B,) in [0, 1). Returns (B,) int64, rows of the whole batch; a row without
    weight points at the first member of its group.
    """
    num_rows, size = weight_Bg.shape
    cumulated_Bg = weight_Bg.double().cumsum(1)
    place_B = (cumulated_Bg <= (uniform_B * cumulated_Bg[:, -1])[:, None]).sum(1)
    last_B = size - 1 - (weight_Bg > 0).flip(1).int().argmax(1)  # rounding may not step past the last candidate
    start_B = torch.arange(num_rows, device=weight_Bg.device) // size * size
    return start_B + torch.where(cumulated_Bg[:, -1] > 0, torch.minimum(place_B, last_B), 0)


@torch.no_grad()
def hardest_negatives(logit_Bg: Tensor, identity_B: Tensor) -> tuple[Tensor, Tensor]:
    """Batch row of the most similar pair of another identity in each row's group, and which rows have any.

    logit_Bg (B, g): similarities to the members of the row's group; identity_B (B,). Returns (B,) int64, of equals the
    first, and (B,) bool; a row without a negative points at the first member of its group.
    Source: BAMG, "Image-Text Matching Learning". Differs: "unmatched" is another identity, not merely another pair.
    """
    size = logit_Bg.shape[1]
    same_Bg = _same_identity(identity_B, size)
    has_B = ~same_Bg.all(1)
    other_Bg = logit_Bg.float().masked_fill(same_Bg, -torch.inf)
    start_B = torch.arange(len(logit_Bg), device=logit_Bg.device) // size * size
    return start_B + torch.where(has_B, other_Bg.argmax(1), 0), has_B


def _same_identity(identity_B: Tensor, group_pairs: int) -> Tensor:
    """(B, g) bool: whether the members of each row's group are of its identity."""
    group_Gg = identity_B.view(-1, group_pairs)
    return (group_Gg[:, :, None] == group_Gg[:, None, :]).flatten(0, 1)
