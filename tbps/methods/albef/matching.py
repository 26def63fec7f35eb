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
from tbps.methods.albef.cross_calls import CrossPass, CrossSequences, PackedCaptions, cross_encode, sequences
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
    """Captions that are shown to images of the batch in the same call as the matching rows."""

    captions: PackedCaptions
    hidden_ND: Tensor | None
    """Their text states; None where the cross encoder starts from token ids."""
    image: Index
    """Row of the batch whose image each sequence sees."""
    rows: Index | None = None
    """Which of the captions are shown; None = all."""


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
        record_layer: int | None = None,
    ) -> CrossPass:
        """One packed call: the R matching rows (positives, both kinds of negatives), then what is further shown."""
        ids, hidden = [online.paired.token_id_N], [online.hidden_ND]
        shown = [sequences(online.paired, offset=0, image=negatives.images(), caption=negatives.captions())]
        for part in further:
            shown.append(sequences(part.captions, offset=sum(map(len, ids)), image=part.image, caption=part.rows))
            ids.append(part.captions.token_id_N)
            if part.hidden_ND is not None:
                hidden.append(part.hidden_ND)
        return cross_encode(
            self.text,
            ids_N=torch.cat(ids),
            hidden_ND=torch.cat(hidden),
            image_IPD=online.token_BPD,
            shown=CrossSequences.join(shown),
            group_I=batch.group_B,
            record_layer=record_layer,
        )

    def cls_states(self, batch: Batch, crossed: CrossPass) -> Tensor:
        """[CLS] states (R, D) of the matching rows."""
        return crossed.hidden_ND.index_select(0, crossed.packing.first_S[: 3 * batch.num_pairs])

    def loss(self, batch: Batch, logit_R2: Tensor, pending: PendingNegatives) -> Tensor:
        """Of the head's logits of the matching rows."""
        return matching_loss(logit_R2, has_negative_B=pending.has_B, group_pairs=batch.group_pairs)


def whole_batch(batch: Batch) -> Index:
    """Each row of the batch, in order."""
    return np.arange(batch.num_pairs)
