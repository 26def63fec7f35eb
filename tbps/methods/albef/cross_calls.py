"""Which captions are shown to which images in one packed cross-encoder call.

Shapes: B captions in groups G, S sequences of N tokens in all, I images of P tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbps.nn.bert import Bert, CrossRecord
from tbps.nn.packing import Index, Layout, Packing, lay_out, upload
from tbps.text.token_batch import Captions


@dataclass(kw_only=True)
class PackedCaptions:
    """Captions of a batch laid out for the encoders."""

    layout: Layout
    packing: Packing
    token_id_N: Tensor
    """On the device."""


def pack_captions(
    captions: Captions, device: torch.device, *, group: Index | None = None, padded: bool = False
) -> PackedCaptions:
    """Lay captions out; group: of each caption; `padded` also computes padding up to the longest of each group."""
    keys_B = np.asarray(captions.lengths, np.int64)
    tokens_B = _longest_of_group(keys_B, group) if padded else keys_B
    layout = lay_out(tokens_B, keys=keys_B, group=group)
    ids_N = captions.token_ids_BL.numpy()[layout.sequence_N, layout.position_N]
    return PackedCaptions(layout=layout, packing=layout.to(device), token_id_N=upload([ids_N], device)[0])


def encode_text(text: Bert, captions: PackedCaptions) -> Tensor:
    """Captions through the text layers alone: (N, D)."""
    return text.encode_text(text.embed(captions.token_id_N, captions.packing), captions.packing)


def _longest_of_group(length_B: Index, group_B: Index | None) -> Index:
    if group_B is None:
        return np.full_like(length_B, length_B.max())
    _, place_B = np.unique(group_B, return_inverse=True)
    longest_G = np.zeros(place_B.max() + 1, np.int64)
    np.maximum.at(longest_G, place_B, length_B)
    return longest_G[place_B]


@dataclass(kw_only=True)
class CrossSequences:
    """Sequences for one packed cross-encoder call: each shows one caption to one image."""

    source_S: Index
    """Row, in the joined source states, of each sequence's first token."""
    tokens_S: Index
    keys_S: Index
    image_S: Index

    @staticmethod
    def join(parts: Sequence[CrossSequences]) -> CrossSequences:
        """Several kinds of sequences, one after another."""
        return CrossSequences(
            source_S=np.concatenate([part.source_S for part in parts]),
            tokens_S=np.concatenate([part.tokens_S for part in parts]),
            keys_S=np.concatenate([part.keys_S for part in parts]),
            image_S=np.concatenate([part.image_S for part in parts]),
        )


def sequences(captions: PackedCaptions, *, offset: int, image: Index, caption: Index | None = None) -> CrossSequences:
    """Show caption[s] (default: s) to image[s]; `offset` is where these captions start in the joined source states."""
    layout = captions.layout
    rows = np.arange(len(layout.tokens_S)) if caption is None else caption
    return CrossSequences(
        source_S=offset + layout.start_S[rows],
        tokens_S=layout.tokens_S[rows],
        keys_S=layout.keys_S[rows],
        image_S=image,
    )


@dataclass(kw_only=True)
class CrossPass:
    """Output of `cross_encode`: states of all tokens of all sequences, and where each of them lies."""

    layout: Layout
    packing: Packing
    hidden_ND: Tensor
    record: CrossRecord | None = None
    """What the layer that was asked for held."""


def cross_encode(
    text: Bert,
    *,
    ids_N: Tensor,
    hidden_ND: Tensor | None,
    image_IPD: Tensor,
    shown: CrossSequences,
    group_I: Index | None = None,
    record_layer: int | None = None,
) -> CrossPass:
    """Run every sequence through the cross encoder in one call.

    ids_N: token ids of the joined source captions; hidden_ND: their text states, needed unless the cross encoder starts
    from ids (full cross-attention); image_IPD (I, P, D) image tokens; group_I: group of each image, and of what is shown to
    it (default: one group); record_layer: cross layer (1 = the first) of which a record is kept.
    """
    layout = lay_out(
        shown.tokens_S,
        keys=shown.keys_S,
        group=None if group_I is None else group_I[shown.image_S],
        image=shown.image_S,
        num_images=len(image_IPD),
    )
    packing = layout.to(ids_N.device)
    source_N = upload([shown.source_S[layout.sequence_N] + layout.position_N], ids_N.device)[0]
    if text.full_cross_attention:
        x_ND = text.embed(ids_N.index_select(0, source_N), packing)
    else:
        assert hidden_ND is not None
        x_ND = hidden_ND.index_select(0, source_N)
    if record_layer is None:
        return CrossPass(layout=layout, packing=packing, hidden_ND=text.encode_cross(x_ND, packing, image_IPD))
    y_ND, record = text.encode_cross_with_record(x_ND, packing, image_IPD, layer=record_layer)
    return CrossPass(layout=layout, packing=packing, hidden_ND=y_ND, record=record)
