"""BiLMa's masked image modelling: which patches are masked, and how well what stood there is told.

Shapes: B images of N patches, K masked ones of each, M = B K masked patches, C labels, X numbers of a target.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tbps.objectives.patch_labels import UNLABELLED


def choose_patches(number_BN: NDArray[np.float64], *, ratio: float) -> NDArray[np.int64]:
    """(B, K): the K = round(ratio N) patches of smallest number, at least one, ascending.

    number_BN (B, N) uniform in [0, 1), so that every set of K patches is as likely. Source: BiLMa's m_p; that their number
    is fixed, and [CLS] never among them, is ours.
    """
    count = max(1, round(ratio * number_BN.shape[1]))
    return np.sort(np.argsort(number_BN, axis=1, kind="stable")[:, :count], axis=1)


def semantic_loss(logit_MC: Tensor, label_M: Tensor, *, mean_over: Tensor | float) -> Tensor:
    """L = 1/m sum_i( log sum_c exp(a_ic) - a_il ), l the label of masked patch i; a patch that is `UNLABELLED` adds nothing.

    logit_MC (M, C) logits a; label_M (M,) int64; mean_over: m, the labelled masked patches of the whole batch, so that its
    parts add up to the mean. Returns a scalar. Source: BiLMa, Eq. 2. Differs: without its factor 1/|C|, by which a loss of C
    labels would count C times less.
    Check: logits of zeros give log C.
    """
    return F.cross_entropy(logit_MC.float(), label_M, ignore_index=UNLABELLED, reduction="sum") / mean_over


def regression_loss(predicted_MX: Tensor, target_MX: Tensor, *, mean_over: Tensor | float) -> Tensor:
    """L = 1/m sum_i( mean_x (p_ix - t_ix)^2 ): for targets that are numbers, which BiLMa compares with.

    predicted_MX, target_MX (M, X) p and t; mean_over: m, the masked patches of the whole batch. Returns a scalar.
    Source: SimMIM and MAE, by which BiLMa calls its ablations "reconstruction"; it does not print their losses.
    """
    return (predicted_MX.float() - target_MX.float()).square().mean(-1).sum() / mean_over


@torch.no_grad()
def count_right(logit_MC: Tensor, label_M: Tensor) -> Tensor:
    """(C,) float: of each label, how many masked patches have it and are given their largest logit there."""
    right_M = logit_MC.argmax(1) == label_M
    return (F.one_hot(label_M.clamp(min=0), logit_MC.shape[1]) * right_M[:, None]).sum(0).float()
