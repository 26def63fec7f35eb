"""Settings of IRRA (arXiv 2303.12501)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tbps.config.methods.clip_family import ClipFamily, check_ranking_trained
from tbps.config.methods.loss_weights import LossWeights
from tbps.config.needs import Draw, Needs
from tbps.config.ranges import Count, NotNegative, Positive, PositiveShare, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class IrraWeights(LossWeights):
    """Weights of IRRA's losses, each 1 in the official code. 0 leaves a loss out, with what only it needs."""

    sdm: NotNegative = 1.0
    """Similarity distribution matching: image to caption plus caption to image."""
    identity: NotNegative = 1.0
    """Classification of the training identities; the official code calls it id."""
    mlm: NotNegative = 1.0
    """Masked words, guessed by looking at the image."""

    def __post_init__(self) -> None:
        LossWeights.__post_init__(self)
        check_ranking_trained(sdm=self.sdm, identity=self.identity)


@dataclass(frozen=True, kw_only=True, slots=True)
class Irra(ClipFamily):
    """IRRA: CLIP's towers, trained by similarity distributions, identities, and words guessed from the image."""

    MODULE: ClassVar[str] = "tbps.methods.clip.irra"
    weights: IrraWeights = IrraWeights()
    """Weights of the losses."""
    logit_scale: Positive = 50.0
    """By what cosines are multiplied before the softmax of `sdm`: a constant, 1 / T with T = 0.02."""
    cross_layers: Count = 4
    """Blocks of self-attention behind the one cross-attention of captions that look at an image."""
    cross_heads: Count = 8
    """Attention heads there; the official code has one for 64 numbers of a feature."""
    mlm_probability: PositiveShare = 0.15
    """Share of words that are masked."""
    mask_text_for_all_losses: bool = False
    """Whether `sdm` and `identity` see the masked captions too, which saves a pass of the text encoder. So does the official
    code, by mistake: it writes the masks into the captions themselves (its issues 13 and 29; clean ones cost its author some
    accuracy)."""
    padding: Literal["masked", "official"] = "masked"
    """`masked`: where words are guessed, captions attend to their own tokens, and padding is not computed. `official`:
    captions are filled up with padding to the text encoder's longest, and attend to it."""

    def __post_init__(self) -> None:
        check_ranges(self, "method")
        if self.towers.features % self.cross_heads:
            raise ValueError(
                f"method.towers.features is {self.towers.features}, expected a multiple of method.cross_heads"
                f" ({self.cross_heads}); change one of them"
            )
        if self.mask_text_for_all_losses and not self.weights.mlm:
            raise ValueError(
                "method.mask_text_for_all_losses is on and method.weights.mlm is 0, so that no word is masked; turn it off,"
                " or give mlm a weight"
            )

    def training_heads(self) -> tuple[str, ...]:
        """See the base class."""
        return ("classifier.", "cross_former.", "word_head.")

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        return Needs(
            text=self.text(masks_words=True),
            draws=(Draw(name="mlm", per="token", numbers=2),) if self.weights.mlm else (),
            identities=self.weights.identity > 0,
            contrast="batch",
            matcher=False,
        )

    def told(self) -> dict[str, str]:
        """See the base class."""
        return ClipFamily.told(self) | {"cross_heads": str(self.cross_heads)}
