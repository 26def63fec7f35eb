"""Settings of ALBEF (arXiv 2107.07651)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from tbps.config.evaluation import Evaluation
from tbps.config.methods.albef_family import NEGATIVES, AlbefFamily, check_weights
from tbps.config.needs import Needs
from tbps.config.ranges import NotNegative


@dataclass(frozen=True, kw_only=True, slots=True)
class AlbefWeights:
    """Weights of ALBEF's losses."""

    itc: NotNegative = 1.0
    """Contrast of images and captions, over the group and the queue."""
    itm: NotNegative = 1.0
    """Matching: whether an image and a caption belong together, with hard negatives."""

    def __post_init__(self) -> None:
        check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Albef(AlbefFamily):
    """ALBEF fine-tuned for retrieval: ITC + ITM (arXiv 2107.07651)."""

    MODULE: ClassVar[str] = "tbps.methods.albef.albef"
    weights: AlbefWeights = AlbefWeights()
    """How much each loss counts."""
    keep_word_head: bool = False
    """Carry BERT's word head along, untrained, for a method that goes on from here (LAIP)."""

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        return replace(AlbefFamily.needs(self, image_px), draws=(NEGATIVES,))

    def check_matching(self, evaluation: Evaluation, *, loss: str = "itm") -> None:
        """See the base class."""
        AlbefFamily.check_matching(self, evaluation, loss=loss)
