"""The losses of images against APTM's prompts: pairs of sentences, of which a label says which one is true of an image.

A label is 0 or 1, the place of the true sentence in its pair, or -1 where that is not known.

Shapes: G groups, g pairs of a group, A attributes, K prompts drawn for matching, R rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def two_way_loss(logit_GgA2: Tensor, label_GgA: Tensor, *, smoothing: float) -> Tensor:
    """Cross entropy of two classes for each of A questions, over the images of which the answer is known.

    L = mean over groups of 1/A sum_a mean over known i of -sum_c y_iac log softmax(logit_ia)_c,
    y = (1 - s) [c = label] + s / 2

    logit_GgA2 (G, g, A, 2); label_GgA (G, g, A) 0, 1 or -1 (unknown: its row is left out); smoothing s. A question whose
    answer is known of no image of a group adds 0 and counts in A. Returns a scalar.
    Source: APTM, arXiv 2306.02898, by its code (models/xvlm.py). Differs: without smoothing its code gives NaN for a
    question that no image answers.
    Check: logits of zeros give log 2, times the share of questions that some image of the group answers.
    """
    log_GgA2 = logit_GgA2.float().log_softmax(-1)
    known_GgA = (label_GgA >= 0).float()
    target_GgA2 = (1 - smoothing) * F.one_hot(label_GgA.clamp(min=0).long(), 2).float() + smoothing / 2
    value_GgA = -(target_GgA2 * log_GgA2).sum(-1)
    return ((value_GgA * known_GgA).sum(1) / known_GgA.sum(1).clamp(min=1)).mean()


def prompt_labels(label_GgA: Tensor, prompt_GK: Tensor) -> Tensor:
    """Whether the K prompts of each group are true of its images: (G, g, K) 1 or 0, or -1 where that is not known.

    Prompt 2 a is true where label a is 0, prompt 2 a + 1 where it is 1.
    """
    label_GgK = label_GgA.long().gather(2, (prompt_GK // 2)[:, None].expand(-1, label_GgA.shape[1], -1))
    true_GgK = (label_GgK == (prompt_GK % 2)[:, None]).long()
    return torch.where(label_GgK < 0, -1, true_GgK)
