"""Settings of RaSa (arXiv 2305.13653)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from tbps.config.methods.albef_family import WORD_DRAWS, AlbefFamily, check_weights
from tbps.config.needs import Needs
from tbps.config.ranges import NotNegative, PositiveShare


@dataclass(frozen=True, kw_only=True, slots=True)
class RasaWeights:
    """Weights of RaSa's losses (RaSa configs; MARS paper, Eq. 17)."""

    cl: NotNegative = 0.5
    """Contrast of an image with captions, and of each with its own kind, over the group and the queue."""
    pitm: NotNegative = 1.0
    """Matching: whether an image and a caption belong together, with hard negatives and weak positives."""
    mlm: NotNegative = 1.0
    """Masked words, told from the rest of the caption and the image."""
    prd: NotNegative = 0.5
    """Relation detection: whether a caption is the image's own or another one of the same identity."""
    mrtd: NotNegative = 0.5
    """Replaced words: which words of a caption the momentum encoder has filled in."""

    def __post_init__(self) -> None:
        check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rasa(AlbefFamily):
    """RaSa: relation- and sensitivity-aware learning (arXiv 2305.13653)."""

    MODULE: ClassVar[str] = "tbps.methods.albef.rasa"
    weights: RasaWeights = RasaWeights()
    """How much each loss counts."""
    mlm_probability: PositiveShare = 0.15
    """Share of words that MLM masks."""
    mrtd_probability: PositiveShare = 0.3
    """Share of words that are masked before the momentum encoder fills a caption in for m-RTD."""
    mlm_soft: Literal["vocabulary", "sequence"] = "vocabulary"
    """Soft MLM labels against a softmax over the vocabulary, or over positions (a typo behind the published numbers,
    salesforce/ALBEF issue 58; needs padding = official to be exact)."""

    def training_heads(self) -> tuple[str, ...]:
        """See the base class."""
        return (*AlbefFamily.training_heads(self), "prd_head.", "mrtd_head.")

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        return replace(AlbefFamily.needs(self, image_px), draws=WORD_DRAWS)
