"""Scoring many (caption, image) pairs with the cross encoder, image by image.

An image's keys and values are projected once per layer for all captions it is compared with, what a caption does before it
first sees an image is computed once, and the last layer computes [CLS] alone. All exact. Under autocast the head is float32,
and so is [CLS] once it has attended to its caption for the last time.
Shapes: Q captions of N tokens in all, I images of P tokens, M pairs, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from tbps.methods.albef.cross_calls import PackedCaptions
from tbps.methods.albef.pair_calls import call_sizes, share_out
from tbps.methods.albef.token_maps import token_weights
from tbps.methods.method import PairScorer
from tbps.nn.bert import Bert, BertLayer
from tbps.nn.float32 import float32_layers
from tbps.nn.packing import Index, Layout, lay_out, upload
from tbps.text.token_batch import Captions


@dataclass(frozen=True, kw_only=True)
class CrossMatcher:
    """The matching head on the cross encoder's [CLS]: see `tbps.methods.method.Matcher`."""

    text: Bert
    itm_head: nn.Module
    pack: Callable[[Captions], PackedCaptions]
    """Lays captions out for the encoders."""
    device: torch.device

    @property
    def block_images(self) -> int:
        """Images scored in one call at most."""
        return call_sizes(self.device.type, width=self.text.width).images

    def prepare(self, captions: Captions, hidden_ND: Tensor | None) -> PairScorer:
        """What each caption does before it first sees an image."""
        return partial(
            match_pairs, self.text, self.itm_head, captions=prepare_captions(self.text, self.pack(captions), hidden_ND)
        )

    def token_weights(self, captions: Captions, hidden_ND: Tensor | None, image_IPD: Tensor) -> tuple[Tensor, float]:
        """See `tbps.methods.method.ExplainingMatcher`."""
        packed = self.pack(captions)
        return token_weights(self.text, self.itm_head, packed, hidden_ND=hidden_ND, image_IPD=image_IPD)


@dataclass(kw_only=True)
class PreparedCaptions:
    """Captions as far as they can be computed without an image."""

    layout: Layout
    state_ND: Tensor
    """After the first cross layer's self-attention."""


@torch.no_grad()
def prepare_captions(text: Bert, captions: PackedCaptions, hidden_ND: Tensor | None) -> PreparedCaptions:
    """Compute each caption's prefix once; hidden_ND: text states, needed unless the cross encoder starts from ids."""
    if hidden_ND is None:
        hidden_ND = text.embed(captions.token_id_N, captions.packing)
    first = text.layers[text.first_cross_layer]
    assert isinstance(first, BertLayer)
    return PreparedCaptions(layout=captions.layout, state_ND=first.self_attention(hidden_ND, captions.packing))


@torch.no_grad()
def match_pairs(
    text: Bert,
    itm_head: nn.Module,
    *,
    captions: PreparedCaptions,
    image_IPD: Tensor,
    image_M: Index,
    caption_M: Index,
) -> Tensor:
    """Raw matched logit (class 1 of the ITM head) of each pair, (M,) float32, in the order given.

    image_IPD (I, P, D); image_M rows of it; caption_M rows of the prepared captions.
    """
    sizes = call_sizes(image_IPD.device.type, width=text.width)
    calls = share_out(image_M, captions.layout.tokens_S[caption_M], sizes)
    score_M = torch.empty(len(image_M), device=image_IPD.device)
    for pairs in calls:
        used, image_S = np.unique(image_M[pairs], return_inverse=True)
        rows, where = upload([used, pairs], image_IPD.device)
        own_IPD = image_IPD if len(used) == len(image_IPD) else image_IPD.index_select(0, rows)
        score_M[where] = _match_call(text, itm_head, captions, own_IPD, image_S, caption_M[pairs])
    return score_M


def _match_call(
    text: Bert, itm_head: nn.Module, captions: PreparedCaptions, image_IPD: Tensor, image_S: Index, caption_S: Index
) -> Tensor:
    """The logits of S pairs, sorted by image, every image at least once."""
    device = image_IPD.device
    layout = lay_out(captions.layout.tokens_S[caption_S], image=image_S, num_images=len(image_IPD))
    packing = layout.to(device, read=layout.start_S)
    source = captions.layout.start_S[caption_S][layout.sequence_N] + layout.position_N
    (source_N,) = upload([source], device)
    x_ND = captions.state_ND.index_select(0, source_N)
    layers = [layer for layer in text.layers[text.first_cross_layer :] if isinstance(layer, BertLayer)]
    if len(layers) > 1:
        x_ND = layers[0].after_self_attention(x_ND, packing.all, image_IPD)
        for layer in layers[1:-1]:
            x_ND = layer(x_ND, packing, image_IPD)
        cls_SD = layers[-1].self_attention(x_ND, packing, packing.read)
    else:
        cls_SD = packing.read.pick(x_ND)
    # Sequences are sorted by image, so the [CLS] rows are packed in the order of the sequences. There are few of them, and
    # scores that bfloat16 rounds to the same number would be put in order by something else.
    with float32_layers([layers[-1], itm_head], device):
        cls_SD = layers[-1].after_self_attention(cls_SD.float(), packing.read, image_IPD.float())
        return itm_head(cls_SD)[:, 1].float()
