"""Matching: every pair and its two hard negatives through the cross encoder, with whatever else is shown to an image there.

Shapes: B pairs, R = 3B matching rows, N packed tokens, P image tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tbps.data.batch import Batch, Draws
from tbps.methods.albef.cross_calls import (
    CrossPass,
    CrossSequences,
    PackedCaptions,
    Tokens,
    cls_tokens,
    cross_encode_apart,
    sequences,
)
from tbps.methods.albef.pending_negatives import Negatives, PendingNegatives
from tbps.nn.bert import Bert
from tbps.nn.packing import Index
from tbps.objectives.itc import Contrast, Features
from tbps.objectives.itm import matching_loss


@dataclass(kw_only=True)
class Online:
    """The online encoders' output of a step."""

    patch_BND: Tensor
    """Embedded patches, before the encoder."""
    token_BPD: Tensor
    """Image tokens."""
    paired: PackedCaptions
    hidden_ND: Tensor
    """Text states of the paired captions."""
    features: Features


@dataclass(kw_only=True)
class Further:
    """Captions that are shown to images of the batch beside the matching rows."""

    captions: PackedCaptions
    hidden_ND: Tensor | None
    """Their text states; None where the cross encoder starts from token ids."""
    image: Index
    """Row of the batch whose image each sequence sees."""
    rows: Index | None = None
    """Which of the captions are shown; None = all."""
    read: Tokens | None = None
    """Of which tokens, by shown caption and position, a loss reads the states; None = of all."""


class Matching:
    """Held by a method. The modules are registered by the method, so that their weights keep their names in checkpoints."""

    def __init__(self, *, text: Bert, head: nn.Linear) -> None:
        self.text, self.head = text, head

    def start_negatives(self, batch: Batch, draws: Draws, contrast: Contrast) -> PendingNegatives:
        """Draw hard negatives by the similarities of the contrast; their copy to the host begins."""
        return PendingNegatives(
            i2t_BC=contrast.i2t_BC,
            t2i_BC=contrast.t2i_BC,
            identity_B=batch.identity_B,
            group_pairs=batch.group_pairs,
            draws=draws,
        )

    def cross(
        self,
        batch: Batch,
        online: Online,
        negatives: Negatives,
        *,
        further: Sequence[Further] = (),
        read: Tokens | None = None,
    ) -> CrossPass:
        """One packed call: the R matching rows (positives, both kinds of negatives), then what is further shown.

        read: of which tokens of matching rows a loss reads the states, beside [CLS].
        """
        return self._call(batch, online, [self._rows(batch, online, negatives, read), *further], apart=())[0]

    def cross_apart(
        self,
        batch: Batch,
        online: Online,
        negatives: Negatives,
        *,
        further: Sequence[Further],
        apart: Further,
        record_layer: int | None,
    ) -> tuple[CrossPass, CrossPass]:
        """As `cross`, and a pass of `apart` beside it, on the same keys and values of the images; record_layer: cross layer
        (1 = the first) of which a record of that pass is kept. A gradient inside of it meets nothing of the other pass."""
        together = [self._rows(batch, online, negatives, None), *further]
        crossed, beside = self._call(batch, online, together, apart=(apart,), record_layer=record_layer)
        return crossed, beside

    def _rows(self, batch: Batch, online: Online, negatives: Negatives, read: Tokens | None) -> Further:
        """The matching rows."""
        rows, positions = cls_tokens(3 * batch.num_pairs)
        if read is not None:
            rows, positions = np.concatenate([rows, read[0]]), np.concatenate([positions, read[1]])
        return Further(
            captions=online.paired,
            hidden_ND=online.hidden_ND,
            image=negatives.images(),
            rows=negatives.captions(),
            read=(rows, positions),
        )

    def _call(
        self,
        batch: Batch,
        online: Online,
        together: Sequence[Further],
        *,
        apart: Sequence[Further],
        record_layer: int | None = None,
    ) -> list[CrossPass]:
        """What is shown together in a first pass, and a pass for each of the others."""
        shown, ids, hidden = [], list[Tensor](), list[Tensor]()
        for part in (*together, *apart):
            offset = sum(map(len, ids))
            shown.append(sequences(part.captions, offset=offset, image=part.image, caption=part.rows, read=part.read))
            ids.append(part.captions.token_id_N)
            if part.hidden_ND is not None:
                hidden.append(part.hidden_ND)
        return cross_encode_apart(
            self.text,
            ids_N=torch.cat(ids),
            hidden_ND=torch.cat(hidden),
            image_IPD=online.token_BPD,
            shown=[CrossSequences.join(shown[: len(together)]), *shown[len(together) :]],
            group_I=batch.group_B,
            record_layer=record_layer,
        )

    def cls_states(self, batch: Batch, crossed: CrossPass) -> Tensor:
        """[CLS] states (R, D) of the matching rows."""
        return crossed.cls_states(slice(3 * batch.num_pairs))

    def loss(self, batch: Batch, logit_R2: Tensor, pending: PendingNegatives) -> Tensor:
        """Of the head's logits of the matching rows."""
        return matching_loss(logit_R2, has_negative_B=pending.has_B, group_pairs=batch.group_pairs)


def whole_batch(batch: Batch) -> Index:
    """Each row of the batch, in order."""
    return np.arange(batch.num_pairs)
