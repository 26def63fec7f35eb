"""Scoring many (caption, image) pairs with the cross encoder, image by image.

An image's keys and values are projected once per layer for all captions it is compared with, what a caption does before it
first sees an image is computed once, and the last layer computes [CLS] alone. All exact.
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
from tbps.methods.method import PairScorer
from tbps.nn.bert import Bert, BertLayer
from tbps.nn.packing import Index, Layout, Packing, lay_out, upload
from tbps.text.token_batch import Captions

BLOCK_IMAGES = {"cpu": 2, "cuda": 16}
"""Images whose keys and values are held at once: few on a CPU (cache), more on a GPU (kernel size)."""


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
        return BLOCK_IMAGES[self.device.type]

    def prepare(self, captions: Captions, hidden_ND: Tensor | None) -> PairScorer:
        """What each caption does before it first sees an image."""
        return partial(
            match_pairs, self.text, self.itm_head, captions=prepare_captions(self.text, self.pack(captions), hidden_ND)
        )


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

    image_IPD (I, P, D); image_M rows of it, every image at least once; caption_M rows of the prepared captions.
    """
    order = np.argsort(image_M, kind="stable")
    image_S, caption_S = image_M[order], caption_M[order]
    device = image_IPD.device
    layout = lay_out(captions.layout.tokens_S[caption_S], image=image_S, num_images=len(image_IPD))
    packing = layout.to(device)
    source = captions.layout.start_S[caption_S][layout.sequence_N] + layout.position_N
    (source_N,) = upload([source], device)
    x_ND = captions.state_ND.index_select(0, source_N)
    layers = [layer for layer in text.layers[text.first_cross_layer :] if isinstance(layer, BertLayer)]
    x_ND = _after_self_attention(layers[0], x_ND, packing, image_IPD)
    for layer in layers[1:-1]:
        x_ND = layer(x_ND, packing, image_IPD)
    if len(layers) == 1:
        cls_SD = x_ND.index_select(0, packing.first_S)
    else:
        # Sequences are sorted by image, so the [CLS] rows are packed in the order of the sequences.
        alone = lay_out(np.ones_like(image_S), image=image_S, num_images=len(image_IPD)).to(device)
        cls_SD = layers[-1].self_attention(x_ND, packing, only_first=True)
        cls_SD = _after_self_attention(layers[-1], cls_SD, alone, image_IPD)
    score_S = itm_head(cls_SD)[:, 1].float()
    (back_S,) = upload([np.argsort(order, kind="stable")], device)
    return score_S.index_select(0, back_S)


def _after_self_attention(layer: BertLayer, x_ND: Tensor, packing: Packing, image_IPD: Tensor) -> Tensor:
    assert layer.cross_attention is not None
    return layer.feed_forward(layer.cross_attention(x_ND, packing, image_IPD), packing)
