"""RaSa: Relation and Sensitivity Aware Representation Learning for Text-based Person Search (arXiv 2305.13653).

Official code: Flame-Chasers/RaSa. Its steps are in tbps/methods/albef/rasa_step.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import ClassVar, Literal

from tbps.config.methods.rasa import Rasa
from tbps.data.batch import Batch, Draws
from tbps.methods.albef.building import Backbone, build_backbone
from tbps.methods.albef.family import AlbefFamily
from tbps.methods.albef.rasa_step import RasaStep, RasaTasks, predicts_words
from tbps.methods.method import LossesAndNumbers


class RasaMethod(AlbefFamily):
    """Losses: cl = (i2t + t2i + i2i + t2t) / 4, pitm, mlm, prd, mrtd."""

    TRAINERS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "itm_head.": ("pitm",),
        "online.word_head.": ("mlm",),
        "online.image_projection.": ("cl",),
        "online.text_projection.": ("cl",),
    }
    MATCHING: ClassVar[tuple[str, ...]] = ("pitm", "prd", "mlm", "mrtd")
    UNREAD: ClassVar[tuple[str, ...]] = ("momentum_encoder.", "prd_head.")

    def __init__(
        self,
        backbone: Backbone,
        *,
        weights: Mapping[str, float],
        mlm_probability: float,
        mrtd_probability: float,
        mlm_soft: Literal["vocabulary", "sequence"],
    ) -> None:
        words = predicts_words(weights)
        super().__init__(backbone, weights=weights, word_head=words, momentum_words=words)
        self.tasks = RasaTasks.of(
            self, mlm_probability=mlm_probability, mrtd_probability=mrtd_probability, mlm_soft=mlm_soft
        )
        self.prd_head, self.mrtd_head = self.tasks.prd_head, self.tasks.mrtd_head

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """See the base class. The order of work hides the wait for the hard negatives."""
        step = RasaStep(self, self.tasks, batch, draws)
        paired = step.pack()
        momentum, momentum_token_BPD = self.past.features(batch, paired)
        online = self.encode_online(batch, paired)
        cl, pending = step.contrast(online, momentum)
        words = None if self.mrtd_head is None else step.word_task(step.mlm_mask(), momentum_token_BPD)
        return {"cl": cl, **step.cross_losses(online, words, pending)}, {}


def build(config: Rasa, *, image_px: tuple[int, int]) -> RasaMethod:
    """The method with random weights."""
    return RasaMethod(
        build_backbone(config, image_px=image_px),
        weights=asdict(config.weights),
        mlm_probability=config.mlm_probability,
        mrtd_probability=config.mrtd_probability,
        mlm_soft=config.mlm_soft,
    )
