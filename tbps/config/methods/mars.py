"""Settings of MARS (arXiv 2407.04287)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from tbps.config.data import Data
from tbps.config.encoders import Bert, MaeDecoder
from tbps.config.evaluation import Evaluation
from tbps.config.methods.albef_family import WORD_DRAWS, AlbefFamily, check_weights
from tbps.config.needs import Draw, Needs
from tbps.config.ranges import NotNegative, PositiveShare


@dataclass(frozen=True, kw_only=True, slots=True)
class MarsWeights:
    """Weights of MARS's losses (MARS paper, Sec. 4.1).

    0 leaves a loss out: mae and attribute with their passes, mlm and mrtd with theirs when both are 0, and the cross encoder
    when all but cl and mae are 0.
    """

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
    mae: NotNegative = 1.0
    """Rebuilt pixels of removed patches, with the caption's help (Eq. 16)."""
    attribute: NotNegative = 2.0
    """Whether a caption's chunks, an adjective with its noun, describe the image (Eq. 13)."""

    def __post_init__(self) -> None:
        check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mars(AlbefFamily):
    """MARS: RaSa with full cross-attention, attribute loss and text-aware MAE (arXiv 2407.04287)."""

    MODULE: ClassVar[str] = "tbps.methods.albef.mars"
    bert: Bert = Bert(full_cross_attention=True)
    """The text and cross encoder: all of its layers see the image (Sec. 3.1)."""
    weights: MarsWeights = MarsWeights()
    """How much each loss counts (Eq. 17)."""
    mae: MaeDecoder = MaeDecoder()
    """The decoder that rebuilds images."""
    mlm_probability: PositiveShare = 0.15
    """Share of words that MLM masks."""
    mrtd_probability: PositiveShare = 0.3
    """Share of words that are masked before the momentum encoder fills a caption in for m-RTD."""
    mlm_soft: Literal["vocabulary", "sequence"] = "vocabulary"
    """As in RaSa."""
    attribute_head: Literal["shared", "own"] = "shared"
    """Chunks are judged by the ITM head, or by a head of their own (Table 2, w/o shared head)."""
    attribute_weighting: Literal["uniform", "frequency"] = "uniform"
    """`frequency`: common words weigh less (Eq. 14-15; Table 2, AL rebalanced)."""

    def training_heads(self) -> tuple[str, ...]:
        """See the base class."""
        return (*AlbefFamily.training_heads(self), "prd_head.", "mrtd_head.", "mae_decoder.", "attribute_head.")

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class. The patches with the smallest numbers are those that the autoencoder keeps."""
        rows, columns = self.vit.grid(image_px)
        mae = (Draw(name="mae", numbers=rows * columns),) if self.weights.mae else ()
        return replace(
            AlbefFamily.needs(self, image_px),
            draws=(*WORD_DRAWS, *mae),
            chunks=self.weights.attribute > 0,
            chunk_weights=self.attribute_weighting == "frequency",
        )

    def check(self, data: Data, evaluation: Evaluation) -> None:
        """See the base class."""
        AlbefFamily.check(self, data, evaluation)
        if self.vit.width % self.mae.heads:
            raise ValueError(
                f"method.vit.width is {self.vit.width}, expected a multiple of method.mae.heads ({self.mae.heads}); change"
                " one of them"
            )
        rows, columns = self.vit.grid(data.image_px)
        kept = int(rows * columns * (1 - self.mae.mask_ratio))
        if not 0 < kept < rows * columns:
            raise ValueError(
                f"method.mae.mask_ratio is {self.mae.mask_ratio}, which keeps {kept} of {rows * columns} patches; expected"
                " at least one kept and one removed"
            )
