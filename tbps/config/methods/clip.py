"""Settings of CLIP fine-tuned for retrieval (arXiv 2103.00020; TBPS-CLIP, arXiv 2308.10045)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar, Literal

from tbps.config.clip_sizes import ClipSizes
from tbps.config.data import Data
from tbps.config.evaluation import Evaluation
from tbps.config.methods.method import MethodConfig
from tbps.config.needs import Needs, Text
from tbps.config.ranges import NotNegative, Range, Share, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipWeights:
    """Weights of CLIP's losses; 0 leaves one out."""

    itc: NotNegative = 1.0
    """Image-text contrast over the whole batch; with `positives` identity TBPS-CLIP's N-ITC."""
    ritc: NotNegative = 0.0
    """TBPS-CLIP's R-ITC: the divergence of predicted similarities from the distribution of identities."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.weights")
        if not self.by_name():
            raise ValueError("every weight in method.weights (itc, ritc) is 0, expected at least one loss to train by")

    def by_name(self) -> dict[str, float]:
        """Losses that count, and how much."""
        return {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip(MethodConfig):
    """CLIP's two towers, fine-tuned by contrast over the whole batch: the plainest baseline of its family."""

    MODULE: ClassVar[str] = "tbps.methods.clip.clip"
    towers: ClipSizes = field(default_factory=ClipSizes)
    """CLIP's image and text encoder."""
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

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        text = self.towers.text
        return Needs(
            text=Text(
                tokeniser="clip",
                size=text.vocabulary_size,
                max_tokens=text.max_positions,
                start_id=text.vocabulary_size - 2,
                settings="method.towers.text",
            ),
            contrast="batch",
            matcher=False,
        )

    def grid(self, image_px: tuple[int, int]) -> tuple[int, int]:
        """See the base class."""
        return self.towers.grid(image_px)

    def told(self) -> dict[str, str]:
        """See the base class."""
        return self.towers.told()

    def check(self, data: Data, evaluation: Evaluation) -> None:
        """See the base class."""
        self.towers.grid(data.image_px)
