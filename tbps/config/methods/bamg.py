"""Settings of BAMG (Text-based Person Re-identification via Bottlenecks Attention and Masked Graph Modeling)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from tbps.config.data import Data
from tbps.config.evaluation import Evaluation
from tbps.config.methods.clip_family import ClipFamily
from tbps.config.methods.loss_weights import LossWeights
from tbps.config.needs import Draw, Needs
from tbps.config.ranges import Count, NotNegative, PositiveShare, Range, check_ranges

LEAST_TEMPERATURE, LARGEST_TEMPERATURE = 0.01, 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class BamgWeights(LossWeights):
    """Weights of BAMG's losses; 0 leaves one out, with what only it needs."""

    itc: Annotated[float, Range(above=0, because="no other loss trains the features that images are ranked by")] = 1.0
    """Image-text contrast over the whole batch."""
    itm: NotNegative = 1.0
    """Matching of image and caption behind their fusion, with hard negatives."""
    mgm: NotNegative = 1.5
    """Masked graph modelling: the features of a body's parts, guessed where one part is masked; alpha in the paper."""
    mlm: NotNegative = 1.0
    """Masked words, guessed by looking at the image; beta in the paper."""

    def __post_init__(self) -> None:
        LossWeights.__post_init__(self)
        if (self.mgm or self.mlm) and not self.itm:
            raise ValueError(
                "method.weights.itm is 0 while mgm or mlm is not, expected it above 0: matching alone reads both ends of the"
                " fusion, parts of which no other loss would train; give it a weight, or set mgm and mlm to 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyGraphSettings:
    """Masked graph modelling: what the graph of a body is, and how its features are guessed."""

    adjacency: Literal["star", "star-and-head-arms"] = "star"
    """Which parts are joined: the torso to the other five, or the head to both arms as well."""
    layers: Count = 2
    """Graph convolutions."""
    reads: Literal["patches", "nodes"] = "patches"
    """How the graph meets the image (Eq. 12): each patch is joined to the features of the part that it shows and reduced to
    the old width, and guesses are read from a part's patches; or the six nodes are appended to the image's tokens, and
    guesses are read from them."""
    shown_to: Literal["mgm", "all"] = "mgm"
    """Which images of a step hold the masked graph: those that it is guessed from alone, so that matching and words are
    trained on what they see in a search, where no parser runs; or all, as the paper draws it."""
    hide_masked: bool = True
    """Put a learned vector in place of every patch that shows the masked part. Off: the part can be read from them."""
    target: Literal["graph", "features"] = "graph"
    """What is guessed: the features of the unmasked graph, or what goes into the graph, which cannot collapse."""
    target_norm: bool = True
    """Layer-normalise what is guessed."""
    target_gradient: bool = False
    """Let the loss move what is guessed too: it can then become the same for all parts. A control, not a setting to use."""
    counted: Literal["present", "masked"] = "present"
    """Whose guesses count: those of all parts that are seen, or that of the masked one alone."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.graph")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bamg(ClipFamily):
    """BAMG: CLIP's towers, a bottleneck fusion behind them, and masked graph modelling over six parts of the body."""

    MODULE: ClassVar[str] = "tbps.methods.clip.bamg"
    weights: BamgWeights = BamgWeights()
    """Weights of the losses."""
    train_positions: bool = True
    """Train the image's table of positions beside adapters: resized, its values are interpolations. Without adapters
    everything is trained."""
    temperature: Annotated[float, Range(LEAST_TEMPERATURE, LARGEST_TEMPERATURE)] = 0.07
    """Start of the learned temperature of `itc`, which training keeps inside 0.01 to 0.5."""
    fusion: Literal["bottleneck", "cross"] = "bottleneck"
    """How image and caption meet: in a few fusion tokens (Eq. 6-9), or by attention to all tokens of both (Eq. 1-5)."""
    fusion_order: Literal["parallel", "sequential"] = "parallel"
    """Bottleneck alone: both streams read the same fusion tokens, as the equations say, or the text's reads what the
    image's made of them, as the prose does."""
    fusion_tokens: Count = 4
    """Bottleneck alone: fusion tokens."""
    fusion_layers: Count = 4
    """Layers of each stream."""
    fusion_heads: Count = 8
    """Attention heads of a layer."""
    negatives: Literal["hardest", "sampled"] = "hardest"
    """Negatives of `itm`: the most similar pair of another identity in the group, or one drawn by similarity (ALBEF)."""
    caption_negatives: bool = True
    """Show each image a negative caption too, not only each caption a negative image, as the paper says."""
    mlm_probability: PositiveShare = 0.15
    """Share of words that are masked."""
    graph: BodyGraphSettings = BodyGraphSettings()
    """Masked graph modelling."""

    def __post_init__(self) -> None:
        check_ranges(self, "method")
        if self.towers.features % self.fusion_heads:
            raise ValueError(
                f"method.towers.features is {self.towers.features}, expected a multiple of method.fusion_heads"
                f" ({self.fusion_heads}); change one of them"
            )

    def training_heads(self) -> tuple[str, ...]:
        """See the base class."""
        unread = ("absent_KE", "masked_KE", "hidden_E", "graph.", "decoder.") if self.graph.shown_to == "all" else ("",)
        return ("temperature", "word_head.", *(f"body_graph.{name}" for name in unread))

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        return Needs(
            text=self.text(masks_words=True),
            # Drawn whatever the weights, so that leaving a loss out moves no other choice.
            draws=(
                Draw(name="negatives", numbers=2),
                Draw(name="masked_part"),
                Draw(name="mlm", per="token", numbers=2),
            ),
            fields=("parsing_pascal",) if self.weights.mgm else (),
            contrast="batch",
            matcher=self.weights.itm > 0,
        )

    def told(self) -> dict[str, str]:
        """See the base class."""
        return ClipFamily.told(self) | {"fusion_heads": str(self.fusion_heads)}

    def check(self, data: Data, evaluation: Evaluation) -> None:
        """See the base class."""
        ClipFamily.check(self, data, evaluation)
        reranks = evaluation.rerank_k and (evaluation.test or evaluation.validation_rerank)
        if reranks and not self.weights.itm:
            raise ValueError(
                f"method.weights.itm is 0, and evaluation.rerank_k {evaluation.rerank_k} ranks by the matching head, which"
                " that loss alone trains; set evaluation.rerank_k 0, or give the loss a weight"
            )
