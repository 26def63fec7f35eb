"""Several kinds of captions shown to images in one packed cross-encoder call, each found again by its name.

Shapes: N packed tokens, P image tokens, D width, S sequences of a kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbps.methods.albef.cross_calls import (
    CrossPass,
    CrossSequences,
    PackedCaptions,
    Tokens,
    cross_encode,
    sequences,
)
from tbps.nn.bert import Bert
from tbps.nn.packing import Index, upload


@dataclass(kw_only=True)
class ShownPart:
    """Captions of one kind, and who is shown which."""

    captions: PackedCaptions
    hidden_ND: Tensor
    """Their text states."""
    image_S: Index
    """Row of the batch whose image each sequence sees."""
    caption_S: Index
    """Which caption it is."""
    read: Tokens
    """Of which tokens, by sequence and position, a loss reads the states."""


@dataclass(kw_only=True)
class ShownParts:
    """The states of all sequences, by the names of their kinds."""

    crossed: CrossPass
    first: Mapping[str, int]
    """Number of each kind's first sequence."""
    sizes: Mapping[str, int]

    def cls_states(self, name: str) -> Tensor:
        """[CLS] states of a kind's sequences: (S, D)."""
        start = self.first[name]
        return self.crossed.cls_states(slice(start, start + self.sizes[name]))

    def token_states(self, name: str, sequence_M: Index, position_M: Index) -> Tensor:
        """States of tokens of a kind, given by sequence and place: (M, D)."""
        rows = self.crossed.rows(self.first[name] + sequence_M, position_M)
        return self.crossed.hidden_RD.index_select(0, upload([rows], self.crossed.hidden_RD.device)[0])


def show_parts(text: Bert, parts: Mapping[str, ShownPart], *, image_IPD: Tensor, group_I: Index) -> ShownParts:
    """Run all sequences of all kinds through the cross encoder in one call; group_I: group of each image."""
    sizes = {name: len(part.image_S) for name, part in parts.items()}
    offsets = np.cumsum([0, *(len(part.captions.token_id_N) for part in parts.values())])[:-1].tolist()
    crossed = cross_encode(
        text,
        ids_N=torch.cat([part.captions.token_id_N for part in parts.values()]),
        hidden_ND=torch.cat([part.hidden_ND for part in parts.values()]),
        image_IPD=image_IPD,
        shown=CrossSequences.join(
            [
                sequences(part.captions, offset=offset, image=part.image_S, caption=part.caption_S, read=part.read)
                for part, offset in zip(parts.values(), offsets, strict=True)
            ]
        ),
        group_I=group_I,
    )
    firsts = np.cumsum([0, *sizes.values()])[:-1].tolist()
    return ShownParts(crossed=crossed, first=dict(zip(sizes, firsts, strict=True)), sizes=sizes)
