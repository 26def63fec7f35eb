"""Similarity distribution matching: who is near whom shall be distributed as who is the same person (IRRA).

Shapes: G pairs of the whole batch, E features.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOGIT_SCALE = 50.0
"""IRRA's constant 1 / T, T = 0.02: neither trained nor stored."""
EPS = 1e-8
"""Stands inside the logarithm of the target: probability on another identity costs -log(1e-8) = 18.42."""


def identity_distribution(identity_G: Tensor) -> Tensor:
    """y_ij = [id_i = id_j] / sum_k [id_i = id_k]: (G, G) float32 rows that sum to 1.

    Example: identities [0, 0, 1] give rows [1/2, 1/2, 0], [1/2, 1/2, 0], [0, 0, 1].
    """
    same_GG = (identity_G[:, None] == identity_G).float()
    return same_GG / same_GG.sum(1, keepdim=True)


def similarity_distribution_matching(
    image_GE: Tensor, caption_GE: Tensor, identity_G: Tensor, *, logit_scale: float | Tensor = LOGIT_SCALE, eps: float = EPS
) -> Tensor:
    """KL of predicted similarities from the distribution of identities, image to caption plus caption to image.

    L = mean_i KL(p_i || y_i) over images + the same over captions, KL(p_i || y_i) = sum_j p_ij (log p_ij - log(y_ij + eps)),
    p_ij = exp(s v_i . t_j) / sum_k exp(s v_i . t_k), and for captions t_i . v_j;  y of `identity_distribution`

    image_GE, caption_GE (G, E) unit rows v and t of the whole batch; identity_G (G,) int64; logit_scale s; returns a scalar.
    Source: IRRA, arXiv 2303.12501, "Similarity Distribution Matching", by its code (anosorae/IRRA model/objectives.py,
    compute_sdm), which adds the two directions and does not halve them. Half of it with eps = 1e-2 is TBPS-CLIP's R-ITC.
    Check: features of zeros give sum_j 1/G (-log G - log(y_ij + eps)), mean over i, twice; unit rows equal within and
    orthogonal across identities give, as s grows, 0.
    """
    exact = torch.promote_types(image_GE.dtype, torch.float32)
    # A product in bfloat16, as autocast would have it, errs by 0.1 once it is scaled.
    with torch.autocast(image_GE.device.type, enabled=False):
        logit_GG = logit_scale * (image_GE.to(exact) @ caption_GE.to(exact).T)
    log_target_GG = (identity_distribution(identity_G).to(exact) + eps).log()
    return _divergence(logit_GG, log_target_GG) + _divergence(logit_GG.T, log_target_GG)


def _divergence(logit_GG: Tensor, log_target_GG: Tensor) -> Tensor:
    """mean_i sum_j p_ij (log p_ij - log y_ij). The target is symmetric, so one serves both directions."""
    log_p_GG = logit_GG.log_softmax(1)
    return (log_p_GG.exp() * (log_p_GG - log_target_GG)).sum(1).mean()
