"""Image-text contrast of every pair of the whole batch with every other one, without queue or momentum encoder (CLIP).

Shapes: G pairs of the whole batch, E features.
"""

from __future__ import annotations

import torch
from torch import Tensor

HIGHEST_SCALE = 100.0
"""CLIP's bound of the learned scale."""


def bounded_scale(log_scale: Tensor) -> Tensor:
    """exp of the learned logarithm, at most 100; the gradient is that of exp also beyond, so that it can come back.

    Source: CLIP (arXiv 2103.00020), Sec. 2.5, which clips it so that training stays stable. Flame-Chasers/TBPS-CLIP
    model/tbps_model.py bounds the value alone, as here; openai/CLIP and open_clip set the parameter back after each step.
    """
    return bounded(log_scale.exp(), most=HIGHEST_SCALE)


def bounded(value: Tensor, *, least: float | None = None, most: float | None = None) -> Tensor:
    """A learned number inside of bounds; its gradient is that without bounds, so that it can come back."""
    return value - (value - value.clamp(min=least, max=most)).detach()


def batch_contrast(
    image_GE: Tensor, caption_GE: Tensor, target_GG: Tensor, *, scale: Tensor, own_share: float = 0.0
) -> Tensor:
    """Cross entropy of similarities against who belongs to whom, mean of image to caption and caption to image.

    L = (CE(y, softmax(s v t')) + CE(y, softmax(s t v'))) / 2,  CE(y, p) = mean_i( - sum_j y_ij log p_ij )

    image_GE, caption_GE (G, E) unit rows v and t; target_GG (G, G) symmetric rows that sum to 1: the unit matrix (CLIP), or
    `tbps.objectives.sdm.identity_distribution`, where all pairs of a person are positives (TBPS-CLIP's N-ITC); scale s, a
    scalar; own_share a: y becomes (1 - a) y + a p, p without gradient (N-ITC's soft labels). Returns a scalar.
    Source: CLIP, arXiv 2103.00020, Fig. 3; TBPS-CLIP, arXiv 2308.10045, "N-ITC". Differs: N-ITC computes p by a second pass
    of the encoders, which gives the same numbers but for dropout.
    Check: features of zeros give log G; unit rows equal within and orthogonal across identities give, as s grows, the
    entropy of y.
    """
    exact = torch.promote_types(image_GE.dtype, torch.float32)
    # A product in bfloat16, as autocast would have it, errs by 0.1 once it is scaled.
    with torch.autocast(image_GE.device.type, enabled=False):
        logit_GG = scale.to(exact) * (image_GE.to(exact) @ caption_GE.to(exact).T)
    return (_cross_entropy(logit_GG, target_GG, own_share) + _cross_entropy(logit_GG.T, target_GG, own_share)) / 2


def _cross_entropy(logit_GG: Tensor, target_GG: Tensor, own_share: float) -> Tensor:
    log_p_GG = logit_GG.log_softmax(1)
    if own_share:
        target_GG = (1 - own_share) * target_GG + own_share * log_p_GG.detach().exp()
    return -(target_GG * log_p_GG).sum(1).mean()
