"""Settings of BiLMa (Fujii and Tarashima, ICCV workshops 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tbps.config.data import LabelSetName
from tbps.config.methods.clip_family import ClipFamily, check_ranking_trained
from tbps.config.methods.loss_weights import LossWeights
from tbps.config.methods.method import TableNumber
from tbps.config.needs import Draw, Needs
from tbps.config.ranges import Count, NotNegative, Positive, PositiveShare, check_ranges

PatchTarget = Literal["semantic", "pixel", "mean-colour", "feature"]
"""What is predicted of a masked patch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BilmaWeights(LossWeights):
    """Weights of BiLMa's losses. 0 leaves a loss out, with what only it needs: the rows of its Table 2."""

    sdm: NotNegative = 1.0
    """Similarity distribution matching: image to caption plus caption to image."""
    identity: NotNegative = 1.0
    """Classification of the training identities."""
    mlm: NotNegative = 1.0
    """Masked words, predicted from the image and the rest of the caption (alpha)."""
    mim: NotNegative = 1.0
    """Masked patches, predicted from the caption and the rest of the image (beta)."""

    def __post_init__(self) -> None:
        LossWeights.__post_init__(self)
        check_ranking_trained(sdm=self.sdm, identity=self.identity)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bilma(ClipFamily):
    """BiLMa: IRRA's losses of whole images and captions; masked words and masked patches, predicted by one transformer."""

    MODULE: ClassVar[str] = "tbps.methods.clip.bilma"
    TABLE_NUMBERS: ClassVar[tuple[TableNumber, ...]] = (
        TableNumber(name="patches_told", heading="masked patches told, %"),
        TableNumber(name="patches_of_commonest_label", heading="of the commonest label, %"),
    )
    TRAINING_ONLY: ClassVar[tuple[str, ...]] = ("cross_modal_encoder.",)
    weights: BilmaWeights = BilmaWeights()
    """Weights of the losses."""
    logit_scale: Positive = 50.0
    """By what cosines are multiplied before the softmax of `sdm`: a constant, 1 / T with T = 0.02."""
    encoder_layers: Count = 4
    """Blocks of the transformer over image and caption."""
    encoder_heads: Count = 8
    """Attention heads there."""
    word_mask_ratio: PositiveShare = 0.15
    """Share of words that are masked (m_t)."""
    patch_mask_ratio: PositiveShare = 0.15
    """Share of an image's patches that are masked (m_p): that many of each image, rounded, at least one."""
    patch_target: PatchTarget = "semantic"
    """What is predicted of a masked patch: the label of most of its pixels in a map of parts and clothes; or, as
    those that BiLMa compares with, its `pixel` values, its `mean-colour`, or its `feature`, the image encoder's own output,
    normalised and without gradient."""
    label_set: LabelSetName = "atr"
    """Labels of the parsing maps: `atr` (18, with bag, belt and scarf), `lip` (20), or `pascal` (7) (no clothes)."""
    patch_positions: bool = True
    """Whether patches have learned positions in the transformer. Off is a control: nothing then tells the masked patches of
    an image apart."""
    ignore_background: bool = False
    """Whether masked patches of background are left out of the loss."""
    ignore_erased: bool = False
    """Whether erased pixels do not count for the label of a patch; else they keep theirs, though nobody sees it."""
    mask_text_for_all_losses: bool = False
    """Whether every loss sees the masked captions, which saves a pass of the text encoder. So does the official code of
    IRRA, by mistake; whether BiLMa was trained so is not known."""

    def __post_init__(self) -> None:
        check_ranges(self, "method")
        if self.towers.features % self.encoder_heads:
            raise ValueError(
                f"method.towers.features is {self.towers.features}, expected a multiple of method.encoder_heads"
                f" ({self.encoder_heads}); change one of them"
            )
        if self.mask_text_for_all_losses and not self.weights.mlm:
            raise ValueError(
                "method.mask_text_for_all_losses is on and method.weights.mlm is 0, so that no word is masked; turn it off,"
                " or give mlm a weight"
            )
        for name in ("ignore_background", "ignore_erased"):
            if getattr(self, name) and not self.tells_labels:
                raise ValueError(
                    f"method.{name} is on, and no label of a patch is predicted; turn it off, or give"
                    " method.weights.mim a weight and set method.patch_target semantic"
                )

    @property
    def tells_labels(self) -> bool:
        """Whether labels of patches are predicted: maps are read then."""
        return self.weights.mim > 0 and self.patch_target == "semantic"

    @property
    def field(self) -> str:
        """Of a batch, with its parsing maps."""
        return f"parsing_{self.label_set}"

    def training_heads(self) -> tuple[str, ...]:
        """See the base class."""
        return ("classifier.",)

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        rows, columns = self.grid(image_px)
        return Needs(
            text=self.text(masks_words=True),
            # Both whatever the weights: leaving a loss out moves no other choice.
            draws=(Draw(name="mlm", per="token", numbers=2), Draw(name="patches", numbers=rows * columns)),
            fields=(self.field,) if self.tells_labels else (),
            identities=self.weights.identity > 0,
            contrast="batch",
            matcher=False,
        )
