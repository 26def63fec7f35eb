"""Momentum-based replaced token detection.

Shapes: N computed tokens of the own captions, V words.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from tbps.objectives.group_mean import group_mean


@torch.no_grad()
def draw_words(logit_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """One word per token: the first whose cumulated softmax exceeds the uniform number. Returns (N,) int64."""
    cumulated_NV = logit_NV.float().softmax(1).double().cumsum(1)
    return torch.searchsorted(cumulated_NV, (uniform_N * cumulated_NV[:, -1])[:, None], right=True)[:, 0].clamp_(
        max=logit_NV.shape[1] - 1
    )


@torch.no_grad()
def corrupt(word_N: Tensor, *, position_N: Tensor, real_N: Tensor, start_id: int, pad_id: int) -> Tensor:
    """Generator words as discriminator input: the start token forced back at position 0, padding where real_N is 0."""
    return torch.where(real_N.bool(), torch.where(position_N == 0, start_id, word_N), pad_id)


def replaced_token_loss(
    logit_N2: Tensor,
    *,
    corrupted_N: Tensor,
    original_N: Tensor,
    special_ids: Collection[int],
    group_N: Tensor,
    num_groups: int,
) -> Tensor:
    """CE(logit, [corrupted differs from original]) over tokens whose new word is none of `special_ids` (padding, start).

    logit_N2 (N, 2); corrupted_N, original_N (N,) int64. Mean over a group's counted tokens, then over groups.
    Source: RaSa (arXiv 2305.13653), as MARS, Eq. 6. Differs as the official code: every position was resampled, not the
    masked ones alone; a real token whose sample is special is not counted; tokens are pooled over the group.
    """
    counted_N = torch.ones_like(corrupted_N, dtype=torch.bool)
    for special_id in special_ids:
        counted_N &= corrupted_N != special_id
    value_N = F.cross_entropy(logit_N2.float(), (corrupted_N != original_N).long(), reduction="none")
    return group_mean(value_N, group_N, num_groups=num_groups, weight_R=counted_N.float())
