"""Text enrichment: masked words are replaced by other words that the word head finds likely. Source: AGA (arXiv 2412.15106),
Sec. III-C.

Shapes: M masked positions, V words, k candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def draw_other_words(
    logit_MV: Tensor, original_M: Tensor, uniform_M: Tensor, *, candidates: int, never: Sequence[int]
) -> Tensor:
    """One of the k likeliest words that is not the original one, with probability softmax of their logits.

    logit_MV (M, V); original_M (M,) int64; uniform_M (M,) float64 in [0, 1): the word is the first whose cumulated share
    exceeds it; never: ids that are no words ([PAD], [CLS], [MASK]). The original is dropped from the k and the others are
    renormalised; where none is left it stays. Returns (M,) int64. Source: AGA (arXiv 2412.15106), Eq. 10-11. Differs:
    `never` is ours.
    """
    wordless = torch.zeros(logit_MV.shape[1], device=logit_MV.device)
    for token_id in never:
        wordless[token_id : token_id + 1].fill_(-torch.inf)  # assigning it would copy a number from the host, and wait
    top = (logit_MV.float() + wordless).topk(min(candidates, logit_MV.shape[1]), dim=1)
    share_Mk = top.values.softmax(1).double()
    share_Mk = share_Mk * (top.indices != original_M[:, None]) * top.values.isfinite()
    cumulated_Mk = share_Mk.cumsum(1)
    total_M = cumulated_Mk[:, -1]
    place_M = torch.searchsorted(cumulated_Mk, (uniform_M * total_M)[:, None], right=True).clamp_(max=share_Mk.shape[1] - 1)
    word_M = top.indices.gather(1, place_M)[:, 0]
    return torch.where(total_M > 0, word_M, original_M)
