"""Image-text contrast with momentum distillation over groups and a queue.

Shapes: B pairs in groups of g, E features, K queue places, C = g + K candidates of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tbps.nn.queue import EMPTY, FeatureQueue


@dataclass(kw_only=True)
class Features:
    """Unit rows of a batch."""

    image_BE: Tensor
    caption_BE: Tensor


@dataclass(kw_only=True)
class Contrast:
    """Similarities over the temperature and the losses made of them."""

    i2t_BC: Tensor
    t2i_BC: Tensor
    i2i_BC: Tensor | None
    """None where the contrast was not asked for its intra-modal half."""
    t2t_BC: Tensor | None
    target_BC: Tensor
    """Share of each candidate of the row's identity."""
    soft: dict[str, Tensor]
    """i2t, t2i, i2i, t2t: (B, C) targets mixed with the momentum encoder's."""
    loss: dict[str, Tensor]
    """i2t, t2i, i2i, t2t: scalars."""


def identity_target(identity_B: Tensor, queue_identity_K: Tensor, *, group_pairs: int) -> Tensor:
    """y_ij = [id_i = id_j] / sum_k [id_i = id_k] over the row's group, then the queue. Returns (B, g + K) float32.

    Example: identities [0, 0, 1] in one group and the queue [1] give rows
    [1/2, 1/2, 0, 0], [1/2, 1/2, 0, 0], [0, 0, 1/2, 1/2].
    """
    group_Gg = identity_B.view(-1, group_pairs)
    inside_Bg = (group_Gg[:, :, None] == group_Gg[:, None, :]).flatten(0, 1)
    queued_BK = identity_B[:, None] == queue_identity_K
    same_BC = torch.cat([inside_Bg, queued_BK], dim=1).float()
    return same_BC / same_BC.sum(1, keepdim=True)


def candidate_logits(query_BE: Tensor, key_BE: Tensor, queue_KE: Tensor, *, group_pairs: int) -> Tensor:
    """Products of each row with the keys of its group, then with the queue: (B, g + K)."""
    query_GgE, key_GgE = query_BE.unflatten(0, (-1, group_pairs)), key_BE.unflatten(0, (-1, group_pairs))
    inside_Bg = (query_GgE @ key_GgE.transpose(1, 2)).flatten(0, 1)
    return torch.cat([inside_Bg, query_BE @ queue_KE.T], dim=1)


def empty_share(logit_BC: Tensor, queue_identity_K: Tensor) -> Tensor:
    """Mean over rows of the softmax that falls on places of the queue that hold nothing yet: a scalar, 0 to 1."""
    share_BK = logit_BC.detach().softmax(1)[:, -len(queue_identity_K) :]
    return (share_BK @ (queue_identity_K == EMPTY).to(share_BK.dtype)).mean()


def soft_cross_entropy(logit_BC: Tensor, target_BC: Tensor) -> Tensor:
    """mean_i( - sum_j y_ij log softmax(logit_i)_j ): a scalar."""
    return -(target_BC * logit_BC.log_softmax(1)).sum(1).mean()


def momentum_contrast(
    online: Features,
    momentum: Features,
    *,
    identity_B: Tensor,
    queue: FeatureQueue,
    temperature: Tensor,
    alpha: float,
    group_pairs: int,
    intra: bool,
    ignore_empty: bool = False,
) -> Contrast:
    """Four contrasts of online features against momentum features.

    L_xy = CE(alpha softmax(x_m y_m' / T) + (1 - alpha) y, softmax(x y_m' / T)), x, y in {image, text}, candidates y_m of
    the group and the queue. Mean over rows, so over groups too. Places of the queue that hold nothing yet are candidates
    with random features, as in the official code; with `ignore_empty` they are none.

    online, momentum: unit rows; temperature: 0-dim parameter T; alpha: weight of the soft targets;
    intra: make i2i and t2t too. Source: ALBEF, arXiv 2107.07651, Eq. 1 and 6; RaSa adds i2i and t2t (as MARS, Eq. 8-11).
    Differs: the denominator runs over batch and queue (official code; ALBEF issue 22), targets are all of an identity.
    """
    target_BC = identity_target(identity_B, queue.identity_K, group_pairs=group_pairs)
    # With the lowest finite number in place of a logit, the softmax there is exactly 0, and 0 times its logarithm is 0.
    absent_C = F.pad(queue.identity_K == EMPTY, (group_pairs, 0)) if ignore_empty else None

    def logits_of(query_BE: Tensor, key_BE: Tensor, queue_KE: Tensor) -> Tensor:
        logit_BC = candidate_logits(query_BE, key_BE, queue_KE, group_pairs=group_pairs) / temperature
        return logit_BC if absent_C is None else logit_BC.masked_fill(absent_C, torch.finfo(logit_BC.dtype).min)

    online_2E = torch.stack([online.image_BE, online.caption_BE])
    momentum_2E = torch.stack([momentum.image_BE, momentum.caption_BE])
    logits: dict[str, Tensor] = {}
    softs: dict[str, Tensor] = {}
    losses: dict[str, Tensor] = {}
    for key, key_BE, queue_KE in (
        ("t", momentum.caption_BE, queue.caption_KE),
        ("i", momentum.image_BE, queue.image_KE),
    ):
        for row, query in enumerate("it"):
            if query == key and not intra:
                continue
            name = f"{query}2{key}"
            logit_BC = logits_of(online_2E[row], key_BE, queue_KE)
            soft_BC = target_BC
            if alpha:
                with torch.no_grad():
                    momentum_BC = logits_of(momentum_2E[row], key_BE, queue_KE)
                    soft_BC = alpha * momentum_BC.softmax(1) + (1 - alpha) * target_BC
            logits[name], softs[name], losses[name] = logit_BC, soft_BC, soft_cross_entropy(logit_BC, soft_BC)
    return Contrast(
        i2t_BC=logits["i2t"],
        t2i_BC=logits["t2i"],
        i2i_BC=logits.get("i2i"),
        t2t_BC=logits.get("t2t"),
        target_BC=target_BC,
        soft=softs,
        loss=losses,
    )
