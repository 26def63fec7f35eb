"""The method's only loss, a pure function of tensors. G pairs, E numbers of a feature."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pairwise_sigmoid(
    image_GE: Tensor, text_GE: Tensor, identity_G: Tensor, weight_GG: Tensor, *, scale: Tensor, bias: Tensor
) -> Tensor:
    """Whether image i and caption j are of one person, asked of every i and j.

    L = -sum_ij w_ij log sigmoid(z_ij (scale v_i t_j' + bias)) / G,  z_ij = 1 if id_i = id_j, else -1

    image_GE, text_GE  (G, E) unit rows v and t;  identity_G (G,);  weight_GG (G, G) w;  returns a scalar.
    Source: SigLIP, arXiv 2303.15343, Algorithm 1. Differs: z is +1 for all pairs of an identity; w is ours.
    """
    logit_GG = scale * image_GE @ text_GE.T + bias
    sign_GG = 2 * (identity_G[:, None] == identity_G).float() - 1
    return -(weight_GG * F.logsigmoid(sign_GG * logit_GG)).sum() / len(image_GE)
