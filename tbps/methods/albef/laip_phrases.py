"""Phrases of a step of LAIP, and what they look at.

Shapes: N packed tokens, M phrases, I images, Q phrases of the image with the most, P image tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tbps.methods.albef.cross_calls import PackedCaptions, Tokens, cls_tokens
from tbps.nn.packing import Index, Packing
from tbps.objectives.phrases import PhraseTable


@dataclass(kw_only=True)
class Phrases:
    """The phrases of a batch before the cross encoder."""

    table: PhraseTable
    packed: PackedCaptions
    """Whole phrases, then masked ones."""
    hidden_ND: Tensor
    per_image: Packing
    """M sequences of one token: their places in the (I, Q) grid of images and their phrases."""

    def read(self, *, watched: bool) -> Tokens:
        """Tokens of masked phrases that are read behind the last layer: the masked word, and [CLS] where its attention is
        watched."""
        words = np.arange(len(self.table.caption_M)), self.table.position_M
        parts = [words, cls_tokens(len(words[0]))] if watched else [words]
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([places for _, places in parts])

    def masked_rows(self) -> Index:
        """Which of `packed` are masked."""
        count = len(self.table.caption_M)
        return np.arange(count, 2 * count)


@dataclass(kw_only=True)
class PhraseMaps:
    """What phrases look at, for reports; N patches."""

    table: PhraseTable
    maps_MN: dict[str, Tensor]
    """"forward", and "backward" and the "weights" made of both where the method scores words: rows that sum to 1."""


@dataclass(kw_only=True)
class Looks:
    """How much each phrase attends to each token of its image in the watched cross-attention layer, as a mean over heads.

    The query is the [CLS] token of the masked phrase. Tensors are (I, Q, P); places without a phrase are never read.
    """

    forward_IQP: Tensor
    """Forward attention: the softmax weights, rows that sum to 1."""
    backward_IQP: Tensor
    """Backward attention (Eq. 6): by how much the logit of the phrase's masked word would rise if such a weight rose. Zeros
    where the method reads forward attention alone."""
