"""Contrast of phrases with what an image shows of them.

Shapes: M phrases, E features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def phrase_candidates(identity_M: Tensor, group_M: Tensor, words_M: Tensor) -> Tensor:
    """(M, M) bool: which phrases n are candidates of phrase m: itself, and those of other identities of its group.

    Phrases of the same identity are neither right nor wrong, nor are those of the same words: every second person has
    "black hair". Source: LAIP (arXiv 2406.10845), Eq. 10, of which only the words are left; that equal words are left out is
    ours.
    """
    other_MM = (identity_M[:, None] != identity_M) & (group_M[:, None] == group_M) & (words_M[:, None] != words_M)
    return other_MM | torch.eye(len(identity_M), dtype=torch.bool, device=identity_M.device)


def phrase_contrast_loss(
    image_ME: Tensor, phrase_ME: Tensor, *, candidate_MM: Tensor, temperature: Tensor, weight_M: Tensor
) -> Tensor:
    """sum_m w_m (CE_m(image_m . phrase_n / T) + CE_m(phrase_m . image_n / T)) / 2 over the candidates n of m, m is right.

    image_ME: unit rows, the image as the phrase sees it; phrase_ME: unit rows; temperature: 0-dim T; weight_M: shares.
    Returns a scalar; a phrase without other candidates counts 0.
    """
    logit_MM = image_ME @ phrase_ME.T / temperature
    label_M = torch.arange(len(image_ME), device=image_ME.device)
    both = [
        F.cross_entropy(logit.masked_fill(~candidate_MM, -torch.inf), label_M, reduction="none")
        for logit in (logit_MM, logit_MM.T)
    ]
    return (weight_M * (both[0] + both[1])).sum() / 2
