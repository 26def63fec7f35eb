"""Settings of CLIP fine-tuned for retrieval (arXiv 2103.00020; TBPS-CLIP, arXiv 2308.10045)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from tbps.config.methods.clip_family import ClipFamily
from tbps.config.methods.loss_weights import LossWeights
from tbps.config.needs import Needs
from tbps.config.ranges import NotNegative, Range, Share, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipWeights(LossWeights):
    """Weights of CLIP's losses; 0 leaves one out."""

    itc: NotNegative = 1.0
    """Image-text contrast over the whole batch; with `positives` identity TBPS-CLIP's N-ITC."""
    ritc: NotNegative = 0.0
    """TBPS-CLIP's R-ITC: the divergence of predicted similarities from the distribution of identities."""

    def __post_init__(self) -> None:
        LossWeights.__post_init__(self)
        if not self.by_name():
            raise ValueError("every weight in method.weights (itc, ritc) is 0, expected at least one loss to train by")


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip(ClipFamily):
    """CLIP's two towers, fine-tuned by contrast over the whole batch: the plainest baseline of its family."""

    MODULE: ClassVar[str] = "tbps.methods.clip.clip"
    weights: ClipWeights = ClipWeights()
    """Weights of the losses."""
    logit_scale: Annotated[float, Range(above=0, high=100)] = 1 / 0.07
    """By what cosines are multiplied before the softmax: the start of a learned number where the start weights hold none.
    CLIP's own by default, 1 / T with T = 0.07; training bounds it at 100."""
    positives: Literal["pair", "identity"] = "pair"
    """Whom `itc` counts as belonging together: an image and its own caption (CLIP), or all pairs of a person (N-ITC)."""
    soft_targets: Share = 0.0
    """Share of the model's own similarities in the targets of `itc`, reached at the end of the first epoch: N-ITC's 0.5."""

    def __post_init__(self) -> None:
        check_ranges(self, "method")

    @property
    def log_scale(self) -> float:
        """Where the parameter starts."""
        return math.log(self.logit_scale)

    def training_heads(self) -> tuple[str, ...]:
        """See the base class."""
        return ("logit_scale",)

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        return Needs(
            text=self.text(masks_words=False),
            contrast="batch",
            matcher=False,
        )
