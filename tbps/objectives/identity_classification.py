"""Identity classification: image and caption are told, by one classifier, which training person they show (IRRA).

Shapes: B pairs, C training identities.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def identity_classification(image_logit_BC: Tensor, caption_logit_BC: Tensor, class_B: Tensor) -> Tensor:
    """L = (CE(c, a) + CE(c, b)) / 2, CE(c, a) = mean_i( log sum_k exp(a_ik) - a_ic ).

    image_logit_BC, caption_logit_BC (B, C): logits a and b of one linear classifier that both share, on features that are
    not normalised; class_B (B,) int64: the identity's number c among those of training. Returns a scalar.
    Source: the ID loss of IRRA (arXiv 2303.12501), by its code (anosorae/IRRA model/objectives.py, compute_id).
    Check: logits of zeros give log C.
    """
    image = F.cross_entropy(image_logit_BC.float(), class_B)
    caption = F.cross_entropy(caption_logit_BC.float(), class_B)
    return (image + caption) / 2
