"""Settings of LAIP (arXiv 2406.10845)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from tbps.config.evaluation import Evaluation
from tbps.config.methods.albef_family import NEGATIVES, AlbefFamily, check_weights, masking_draw
from tbps.config.needs import Draw, Needs
from tbps.config.ranges import Count, NotNegative, PositiveShare, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class LaipWeights:
    """Weights of LAIP's losses (Eq. 1 and 12: each counts once). 0 leaves a loss out, with its passes."""

    itc: NotNegative = 1.0
    """Contrast of images and captions, over the group and the queue; in both stages."""
    itm: NotNegative = 1.0
    """Matching: whether an image and a caption belong together, with hard negatives; in both stages."""
    triplet: NotNegative = 1.0
    """A matching pair's logit above those of hard negatives, by `margin` (Eq. 20); from here on in the second stage only."""
    bidir: NotNegative = 1.0
    """Contrast of phrases with the patches that forward and backward attention find for them."""
    mpm: NotNegative = 1.0
    """Masked phrases, told from the rest of the caption and the image."""
    mlm: NotNegative = 0.0
    """Masked words of the whole caption in place of phrases (Table V)."""

    def __post_init__(self) -> None:
        check_weights(self)
        if self.itm <= 0:
            raise ValueError(
                f"method.weights.itm is {self.itm:g}, expected more than 0: without matching, no loss of LAIP trains the"
                " whole cross encoder"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Laip(AlbefFamily):
    """LAIP: ALBEF with a fusion triplet, attention-weighted phrases and masked phrases (arXiv 2406.10845)."""

    MODULE: ClassVar[str] = "tbps.methods.albef.laip"
    weights: LaipWeights = LaipWeights()
    """How much each loss counts."""
    margin: NotNegative = 0.6
    """By how much the logit of a matching pair must exceed that of each hard negative in the fusion triplet (Eq. 20,
    Fig. 6)."""
    attention: Literal["both", "forward", "backward"] = "both"
    """What weighs the patches of an image for a phrase (Table IV)."""
    combination: Literal["product", "sum"] = "product"
    """How forward and backward attention become one (Eq. 7 is lost in our copy of the paper)."""
    attention_layer: Count = 3
    """Cross layer whose attention is taken, 1 = the first (Fig. 6; which is best there is lost in our copy of the paper). At
    the last one backward attention is zero."""
    mlm_probability: PositiveShare = 0.15
    """Share of a caption's words that `mlm` masks."""

    def __post_init__(self) -> None:
        check_ranges(self, "method")
        layers = self.bert.layers - (0 if self.bert.full_cross_attention else self.bert.fusion_layer)
        last = layers if self.attention == "forward" else layers - 1
        if self.padding != "packed":
            raise ValueError(f"method.padding is {self.padding!r}, expected 'packed': no official code of LAIP is public")
        if self.weights.bidir and not 1 <= self.attention_layer <= last:
            raise ValueError(
                f"method.attention_layer is {self.attention_layer}, expected 1 to {last}: there are {layers} cross layers,"
                " and backward attention is zero at the last one; choose another layer"
            )

    def check_matching(self, evaluation: Evaluation, *, loss: str = "itm") -> None:
        """See the base class."""
        AlbefFamily.check_matching(self, evaluation, loss=loss)

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class. Under ZeRO-3 weights are released after forward, and backward attention is a gradient taken
        inside it."""
        phrases = bool(self.weights.bidir or self.weights.mpm)
        draws = [NEGATIVES]
        if phrases:
            draws.append(Draw(name="phrase_word", per="token"))  # at a phrase's first token: which of its words is masked
        if self.weights.mlm:
            draws.append(masking_draw("mlm"))
        return replace(
            AlbefFamily.needs(self, image_px),
            draws=tuple(draws),
            chunks=phrases,
            report_chunks=True,
            zero_stages=(1, 2),
        )
