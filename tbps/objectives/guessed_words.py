"""Cross entropy of masked words, as a mean over those of the whole batch.

Shapes: M masked words of these captions, V words of the vocabulary.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def guessed_words_loss(logit_MV: Tensor, word_M: Tensor, *, mean_over: Tensor | float) -> Tensor:
    """L = 1/m sum_i( log sum_v exp(a_iv) - a_iw ), w the word that was masked.

    logit_MV (M, V) logits a at masked words; word_M (M,) int64 w; mean_over: m, M where these are all masked words of the
    batch. So parts of a batch, each with the whole batch's m, add up to the mean over all of its masked words.
    Returns a scalar. Source: IRRA, arXiv 2303.12501, by its code (anosorae/IRRA model/objectives.py, compute_mlm).
    Check: logits of zeros give log V.
    """
    return F.cross_entropy(logit_MV.float(), word_M, reduction="sum") / mean_over
