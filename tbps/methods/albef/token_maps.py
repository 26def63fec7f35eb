"""Which parts of an image answer the tokens of a caption: attention in the middle cross layer, times its gradient.

Shapes: N tokens, P image tokens, H heads, d head width, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tbps.methods.albef.cross_calls import PackedCaptions, cross_encode, sequences
from tbps.nn.attention import mean_attention, split_heads
from tbps.nn.bert import Bert
from tbps.objectives.bidirectional_attention import backward_attention, patch_weights


def token_weights(
    text: Bert, itm_head: nn.Module, packed: PackedCaptions, *, hidden_ND: Tensor | None, image_IPD: Tensor
) -> tuple[Tensor, float]:
    """(N, P) weights of the tokens of one caption over those of one image, rows that sum to 1; and the matching score.

    The attention of a token, times by how much the score would gain from more of it (as LAIP weighs patches, Eq. 7, with
    each word in place of a masked phrase).
    """
    num_layers = len(text.layers) - text.first_cross_layer
    with torch.enable_grad():
        crossed = cross_encode(
            text,
            ids_N=packed.token_id_N,
            hidden_ND=hidden_ND,
            image_IPD=image_IPD.detach().requires_grad_(),
            shown=sequences(packed, offset=0, image=np.zeros(1, np.int64)),
            record_layer=(num_layers + 1) // 2,
        )
        record = crossed.record
        assert record is not None
        score = itm_head(crossed.cls_states(slice(0, 1)))[0, 1].float()
        (gradient_ND,) = torch.autograd.grad(score, record.context_RD)
    with torch.autocast(image_IPD.device.type, enabled=False):
        heads = record.key_IHPd.shape[1]
        query_1HNd = split_heads(record.query_RD.detach()[None].float(), heads)
        forward_1NP = mean_attention(query_1HNd, record.key_IHPd.detach().float())
        backward_1NP = backward_attention(split_heads(gradient_ND[None], heads), record.value_IHPd.detach())
        weight_1NP = patch_weights(forward_1NP, backward_1NP, attention="both", combination="product")
    return weight_1NP[0], float(score.detach())
