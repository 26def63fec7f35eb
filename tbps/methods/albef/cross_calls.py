"""Which captions are shown to which images in one packed cross-encoder call.

Shapes: B captions in groups G, S sequences of N tokens in all, R tokens that are read behind the last layer, I images of P
tokens, D width.
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

Tokens = tuple[Index, Index]
"""Tokens given by their sequence and their position in it."""


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
    packing = layout.to(device, read=layout.start_S)
    return PackedCaptions(layout=layout, packing=packing, token_id_N=upload([ids_N], device)[0])


def encode_text(text: Bert, captions: PackedCaptions) -> Tensor:
    """Captions through the text layers alone: (N, D)."""
    return text.encode_text(text.embed(captions.token_id_N, captions.packing), captions.packing)


def encode_text_cls(text: Bert, captions: PackedCaptions) -> Tensor:
    """The [CLS] states of captions alone: (B, D); the last text layer computes no others."""
    packing = captions.packing
    cls_BD = text.encode_text(text.embed(captions.token_id_N, packing), packing, rows=packing.read)
    return cls_BD.index_select(0, packing.read.first_S)


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
    read: Tokens | None = None
    """The tokens whose states somebody reads; None = all."""

    @staticmethod
    def join(parts: Sequence[CrossSequences]) -> CrossSequences:
        """Several kinds of sequences, one after another."""
        firsts = np.cumsum([0, *(len(part.tokens_S) for part in parts)])[:-1]
        read = [part.read or _all_tokens(part.tokens_S) for part in parts]
        return CrossSequences(
            read=(
                np.concatenate([first + sequence for first, (sequence, _) in zip(firsts, read, strict=True)]),
                np.concatenate([position for _, position in read]),
            ),
            source_S=np.concatenate([part.source_S for part in parts]),
            tokens_S=np.concatenate([part.tokens_S for part in parts]),
            keys_S=np.concatenate([part.keys_S for part in parts]),
            image_S=np.concatenate([part.image_S for part in parts]),
        )


def _all_tokens(tokens_S: Index) -> Tokens:
    sequence_N = np.repeat(np.arange(len(tokens_S)), tokens_S)
    return sequence_N, np.arange(len(sequence_N)) - (np.cumsum(tokens_S) - tokens_S)[sequence_N]


def cls_tokens(num_sequences: int) -> Tokens:
    """[CLS] of each sequence."""
    return np.arange(num_sequences), np.zeros(num_sequences, np.int64)


def sequences(
    captions: PackedCaptions, *, offset: int, image: Index, caption: Index | None = None, read: Tokens | None = None
) -> CrossSequences:
    """Show caption[s] (default: s) to image[s]; `offset` is where these captions start in the joined source states.

    read: the tokens whose states somebody reads (default: all).
    """
    layout = captions.layout
    rows = np.arange(len(layout.tokens_S)) if caption is None else caption
    return CrossSequences(
        source_S=offset + layout.start_S[rows],
        tokens_S=layout.tokens_S[rows],
        keys_S=layout.keys_S[rows],
        image_S=image,
        read=read,
    )


@dataclass(kw_only=True)
class CrossPass:
    """Output of `cross_encode`: states of the tokens that are read, and where each of them lies."""

    layout: Layout
    packing: Packing
    hidden_RD: Tensor
    place_N: Index
    """Row of each packed token in `hidden_RD`; -1 of one that is not read."""
    record: CrossRecord | None = None
    """What the layer that was asked for held."""

    def rows(self, sequence: Index, position: Index) -> Index:
        """Rows of `hidden_RD` of tokens given by sequence and position."""
        row = self.place_N[self.layout.rows(sequence, position)]
        assert not row.size or row.min() >= 0, "a token that nobody said would be read"
        return row

    def cls_states(self, sequences: slice) -> Tensor:
        """[CLS] states of some sequences, which must be read: (S, D)."""
        assert self.place_N[self.layout.start_S[sequences]].min() >= 0, "[CLS] is not among the rows that are read"
        return self.hidden_RD.index_select(0, self.packing.read.first_S[sequences])


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
    (crossed,) = cross_encode_apart(
        text,
        ids_N=ids_N,
        hidden_ND=hidden_ND,
        image_IPD=image_IPD,
        shown=[shown],
        group_I=group_I,
        record_layer=record_layer,
    )
    return crossed


def cross_encode_apart(
    text: Bert,
    *,
    ids_N: Tensor,
    hidden_ND: Tensor | None,
    image_IPD: Tensor,
    shown: Sequence[CrossSequences],
    group_I: Index | None = None,
    record_layer: int | None = None,
) -> list[CrossPass]:
    """As `cross_encode`, of several parts whose graphs do not meet above the images' keys and values, which are projected
    once. A record is of the last part."""
    passes, states = [], []
    for part in shown:
        crossed, source_N = _lay_out_crossed(part, group_I, len(image_IPD), ids_N.device)
        passes.append(crossed)
        if text.full_cross_attention:
            states.append(text.embed(ids_N.index_select(0, source_N), crossed.packing))
        else:
            assert hidden_ND is not None
            states.append(hidden_ND.index_select(0, source_N))
    packings = [crossed.packing for crossed in passes]
    found, passes[-1].record = text.encode_cross_apart(states, packings, image_IPD, record_layer=record_layer)
    for crossed, hidden_RD in zip(passes, found, strict=True):
        crossed.hidden_RD = hidden_RD
    return passes


def _lay_out_crossed(
    shown: CrossSequences, group_I: Index | None, num_images: int, device: torch.device
) -> tuple[CrossPass, Tensor]:
    """Where everything lies, states not yet among it, and the row of each token in the joined source states."""
    layout = lay_out(
        shown.tokens_S,
        keys=shown.keys_S,
        group=None if group_I is None else group_I[shown.image_S],
        image=shown.image_S,
        num_images=num_images,
        image_group=group_I,
    )
    place_N, read_R = np.arange(len(layout.sequence_N)), None
    if shown.read is not None:
        # Where nothing is read one row is computed all the same: data-parallel training waits for every gradient.
        read_R = np.unique(layout.rows(*shown.read)) if len(shown.read[0]) else np.zeros(1, np.int64)
        place_N = np.full(len(layout.sequence_N), -1)
        place_N[read_R] = np.arange(len(read_R))
    source_N = upload([shown.source_S[layout.sequence_N] + layout.position_N], device)[0]
    packing = layout.to(device, read=read_R)
    return CrossPass(layout=layout, packing=packing, hidden_RD=torch.empty(0), place_N=place_N), source_N
