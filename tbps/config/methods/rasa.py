"""Settings of RaSa (arXiv 2305.13653)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from tbps.config.methods.albef_family import AlbefFamily, check_weights, word_draws
from tbps.config.needs import Needs
from tbps.config.ranges import NotNegative, PositiveShare


@dataclass(frozen=True, kw_only=True, slots=True)
class RasaWeights:
    """Weights of RaSa's losses (RaSa configs; MARS paper, Eq. 17)."""

    cl: NotNegative = 0.5
    pitm: NotNegative = 1.0
    mlm: NotNegative = 1.0
    prd: NotNegative = 0.5
    mrtd: NotNegative = 0.5

    def __post_init__(self) -> None:
        check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rasa(AlbefFamily):
    """RaSa: relation- and sensitivity-aware learning (arXiv 2305.13653)."""

    MODULE: ClassVar[str] = "tbps.methods.albef.rasa"
    weights: RasaWeights = RasaWeights()
    mlm_probability: PositiveShare = 0.15
    """Share of words that MLM masks."""
    mrtd_probability: PositiveShare = 0.3
    """Share of words that are masked before the momentum encoder fills a caption in for m-RTD."""
    mlm_soft: Literal["vocabulary", "sequence"] = "vocabulary"
    """Soft MLM labels against a softmax over the vocabulary, or over positions (a typo behind the published numbers,
    salesforce/ALBEF issue 58; needs padding = official to be exact)."""

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        return replace(AlbefFamily.needs(self, image_px), draws=word_draws(self.weights))
