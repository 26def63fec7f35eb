"""ALBEF fine-tuned for retrieval: contrast and matching (arXiv 2107.07651; salesforce/ALBEF Retrieval.py).

Shapes: B pairs, N packed tokens, R = 3B matching rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tbps.config.methods.albef import Albef, AlbefWeights
from tbps.config.methods.laip import LaipWeights
from tbps.data.batch import Batch, Draws
from tbps.methods.albef.building import family_arguments
from tbps.methods.albef.cross_calls import PackedCaptions, cross_encode, sequences
from tbps.methods.albef.family import AlbefFamily
from tbps.methods.albef.pending_negatives import PendingNegatives
from tbps.methods.method import LossesAndNumbers
from tbps.objectives.itc import Features
from tbps.objectives.itm import matching_loss


@dataclass(kw_only=True)
class Encoded:
    """A batch after both encoders and the contrast."""

    captions: PackedCaptions
    token_BPD: Tensor
    """Image tokens."""
    hidden_ND: Tensor
    """Text states of the paired captions."""
    itc: Tensor
    """The contrast: (i2t + t2i) / 2."""
    pending: PendingNegatives | None
    """None where nothing is matched."""


class AlbefMethod(AlbefFamily):
    """Losses: itc = (i2t + t2i) / 2, itm. One image view and one caption feed everything."""

    def __init__(self, *, weights: AlbefWeights | LaipWeights, word_head: bool = False, **family: Any) -> None:
        super().__init__(word_head=word_head, weights=weights, **family)
        if self.online.word_head is not None:
            self.online.word_head.requires_grad_(False)
        self.rest_unused()

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """See the base class."""
        encoded = self.encode(batch, draws)
        losses = {"itc": encoded.itc}
        return losses | {"itm": self.match(batch, encoded)} if self.weights["itm"] else losses, {}

    def encode(self, batch: Batch, draws: Draws) -> Encoded:
        """Both encoders, online and twin, their contrast, and the hard negatives that it leads to."""
        captions = self.pack_captions(batch.paired, group=batch.group_B, padded=self.padding == "official")
        momentum, _ = self.momentum_features(batch, captions)
        token_BPD = self.online.image_encoder(batch.image_BCHW)
        hidden_ND = self.encode_text(self.online, captions)
        online = Features(
            image_BE=self.online.image_feature(token_BPD),
            caption_BE=self.online.caption_feature(hidden_ND.index_select(0, captions.packing.first_S)),
        )
        contrast = self.contrast(batch, online, momentum, intra=False)
        pending = None
        if self.weights["itm"]:
            pending = PendingNegatives(
                i2t_BC=contrast.i2t_BC,
                t2i_BC=contrast.t2i_BC,
                identity_B=batch.identity_B,
                group_pairs=batch.group_pairs,
                draws=draws,
            )
        itc = (contrast.loss["i2t"] + contrast.loss["t2i"]) / 2
        return Encoded(captions=captions, token_BPD=token_BPD, hidden_ND=hidden_ND, itc=itc, pending=pending)

    def match(self, batch: Batch, encoded: Encoded) -> Tensor:
        """itm: every pair and its two hard negatives through the cross encoder."""
        assert encoded.pending is not None
        negatives = encoded.pending.wait()
        crossed = cross_encode(
            self.online.text_encoder,
            ids_N=encoded.captions.token_id_N,
            hidden_ND=encoded.hidden_ND,
            image_IPD=encoded.token_BPD,
            group_I=batch.group_B,
            shown=sequences(encoded.captions, offset=0, image=negatives.images(), caption=negatives.captions()),
        )
        logit_R2 = self.itm_head(crossed.hidden_ND.index_select(0, crossed.packing.first_S))
        return matching_loss(logit_R2, has_negative_B=encoded.pending.has_B, group_pairs=batch.group_pairs)


def build(config: Albef, *, image_px: tuple[int, int]) -> AlbefMethod:
    """The method with random weights."""
    arguments = family_arguments(config, image_px=image_px)
    return AlbefMethod(**arguments, weights=config.weights, word_head=config.keep_word_head)
