"""How much each patch of an image has to do with a phrase: by attention, by its gradient, or by both (LAIP, Sec. II-B1).

Shapes: I images, Q phrases of the image with the most, H heads, P image tokens, d head width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Attention = Literal["both", "forward", "backward"]
Combination = Literal["product", "sum"]


def backward_attention(gradient_IHQd: Tensor, value_IHPd: Tensor) -> Tensor:
    """B_j = mean_h ds / dA_hj: (I, Q, P) float32, how much a phrase's score s would gain if its [CLS] attended more to j.

    [CLS] receives o_h = sum_j A_hj v_hj from a layer, so ds / dA_hj = (ds / do_h) . v_hj, whatever the softmax before it.
    gradient_IHQd: ds / do_h of each phrase; value_IHPd: v_hj. Source: LAIP (arXiv 2406.10845), Eq. 6.
    """
    return (gradient_IHQd.float() @ value_IHPd.float().transpose(2, 3)).mean(1)


def patch_weights(forward_IQP: Tensor, backward_IQP: Tensor, *, attention: Attention, combination: Combination) -> Tensor:
    """w_j of each phrase over patches: (I, Q, P), not negative, sums to 1.

    forward: w = n(F). backward: w = n([B]+). both: w = n(F [B]+), or (n(F) + n([B]+)) / 2 as `sum`. n(x) = x / sum_j x_j,
    and 1 / P where all x are 0, so that `both` is F where no patch would help.
    Source: LAIP (arXiv 2406.10845), Eq. 7, of which only the words are left. Ours: patches that would lower the score count
    as 0.
    """
    forward_IQP = _normalise(forward_IQP)
    if attention == "forward":
        return forward_IQP
    backward_IQP = _normalise(backward_IQP.clamp(min=0))
    if attention == "backward":
        return backward_IQP
    return _normalise(forward_IQP * backward_IQP) if combination == "product" else (forward_IQP + backward_IQP) / 2


def _normalise(x_IQP: Tensor) -> Tensor:
    # Gradients of a score may be as small as floats get: the largest entry becomes 1 before anything is added up.
    peak_IQ1 = x_IQP.detach().amax(-1, keepdim=True)
    some_IQ1 = peak_IQ1 > 0
    scaled_IQP = x_IQP / torch.where(some_IQ1, peak_IQ1, 1.0)
    total_IQ1 = torch.where(some_IQ1, scaled_IQP.sum(-1, keepdim=True), 1.0)
    return torch.where(some_IQ1, scaled_IQP / total_IQ1, 1 / x_IQP.shape[-1])
