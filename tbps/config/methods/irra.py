"""Settings of IRRA (arXiv 2303.12501)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from tbps.config.clip_sizes import ClipSizes
from tbps.config.data import Data
from tbps.config.evaluation import Evaluation
from tbps.config.methods.method import MethodConfig
from tbps.config.needs import Draw, Needs, Text
from tbps.config.ranges import Count, NotNegative, Positive, PositiveShare, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class IrraWeights:
    """Weights of IRRA's losses, each 1 in the official code. 0 leaves a loss out, with what only it needs."""

    sdm: NotNegative = 1.0
    """Similarity distribution matching: image to caption plus caption to image."""
    identity: NotNegative = 1.0
    """Classification of the training identities; the official code calls it id."""
    mlm: NotNegative = 1.0
    """Masked words, guessed by looking at the image."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.weights")
        if not (self.sdm or self.identity):
            raise ValueError(
                "method.weights.sdm and method.weights.identity are 0, expected one of them above 0: no other loss trains"
                " the features that images are ranked by"
            )

    def by_name(self) -> dict[str, float]:
        """Losses that count, and how much."""
        return {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Irra(MethodConfig):
    """IRRA: CLIP's towers, trained by similarity distributions, identities, and words guessed from the image."""

    MODULE: ClassVar[str] = "tbps.methods.clip.irra"
    towers: ClipSizes = field(default_factory=ClipSizes)
    """CLIP's image and text encoder."""
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

    @property
    def mask_id(self) -> int:
        """Id of the masked word: the last byte pair's, before the ids of start and end (49405 in CLIP's vocabulary)."""
        return self.towers.text.vocabulary_size - 3

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        text = self.towers.text
        return Needs(
            text=Text(
                tokeniser="clip",
                size=text.vocabulary_size,
                max_tokens=text.max_positions,
                start_id=text.vocabulary_size - 2,
                mask_id=self.mask_id,
                settings="method.towers.text",
            ),
            draws=(Draw(name="mlm", per="token", numbers=2),) if self.weights.mlm else (),
            identities=self.weights.identity > 0,
            contrast="batch",
            matcher=False,
        )

    def grid(self, image_px: tuple[int, int]) -> tuple[int, int]:
        """See the base class."""
        return self.towers.grid(image_px)

    def told(self) -> dict[str, str]:
        """See the base class."""
        return self.towers.told() | {"cross_heads": str(self.cross_heads)}

    def check(self, data: Data, evaluation: Evaluation) -> None:
        """See the base class."""
        self.towers.grid(data.image_px)
