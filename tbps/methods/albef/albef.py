"""ALBEF fine-tuned for retrieval: contrast and matching.

Align before Fuse (arXiv 2107.07651); official code: salesforce/ALBEF, Retrieval.py.

Shapes: B pairs, R = 3B matching rows, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import ClassVar

from torch import Tensor

from tbps.config.methods.albef import Albef
from tbps.data.batch import Batch, Draws
from tbps.methods.albef.building import Backbone, build_backbone
from tbps.methods.albef.family import AlbefFamily
from tbps.methods.method import LossesAndNumbers


class AlbefMethod(AlbefFamily):
    """Losses: itc = (i2t + t2i) / 2, itm. One image view and one caption feed everything."""

    TRAINERS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "itm_head.": ("itm",),
        "online.image_projection.": ("itc",),
        "online.text_projection.": ("itc",),
    }
    MATCHING: ClassVar[tuple[str, ...]] = ("itm",)

    def __init__(self, backbone: Backbone, *, weights: Mapping[str, float], word_head: bool) -> None:
        super().__init__(backbone, weights=weights, word_head=word_head)
        if self.online.word_head is not None:
            self.online.word_head.requires_grad_(False)
        self.rest_unused()

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """See the base class."""
        paired = self.pack_captions(batch.paired, group=batch.group_B, padded=self.padding == "official")
        momentum, _ = self.past.features(batch, paired)
        online = self.encode_online(batch, paired)
        contrast, pending = self.contrast(batch, draws, online, momentum, intra=False)
        losses: dict[str, Tensor] = {"itc": (contrast.loss["i2t"] + contrast.loss["t2i"]) / 2}
        if pending is not None:
            crossed = self.matching.cross(batch, online, pending.wait())
            logit_R2 = self.itm_head(self.matching.cls_states(batch, crossed))
            losses["itm"] = self.matching.loss(batch, logit_R2, pending)
        return losses, {}


def build(config: Albef, *, image_px: tuple[int, int]) -> AlbefMethod:
    """The method with random weights."""
    backbone = build_backbone(config, image_px=image_px)
    return AlbefMethod(backbone, weights=asdict(config.weights), word_head=config.keep_word_head)
