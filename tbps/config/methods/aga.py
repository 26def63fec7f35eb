"""Settings of AGA (attention-guided masking and text enrichment)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from tbps.config.data import Data
from tbps.config.evaluation import Evaluation
from tbps.config.methods.albef_family import WORD_DRAWS, AlbefFamily, check_weights
from tbps.config.methods.method import TableNumber
from tbps.config.needs import Draw, Needs
from tbps.config.ranges import NotNegative, Positive, PositiveShare, Range, Share, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class AgaWeights:
    """Weights of AGA's losses: RaSa's (AGA, Sec. IV-B: "follows the basic training setting of RaSa").

    0 leaves a loss out as in MARS: Table I's baseline is mlm = 0.
    """

    cl: NotNegative = 0.5
    """Contrast of an image with captions, and of each with its own kind, over the group and the queue."""
    pitm: NotNegative = 1.0
    """Matching: whether an image and a caption belong together, with hard negatives and weak positives."""
    mlm: NotNegative = 1.0
    """Masked words, told from the rest of the caption and the image; which, `masking` says."""
    prd: NotNegative = 0.5
    """Relation detection: whether a caption is the image's own or another one of the same identity."""
    mrtd: NotNegative = 0.5
    """Replaced words: which words of a caption the momentum encoder has filled in."""

    def __post_init__(self) -> None:
        check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Aga(AlbefFamily):
    """AGA: RaSa with attention-guided masking and text enrichment (arXiv 2412.15106)."""

    MODULE: ClassVar[str] = "tbps.methods.albef.aga"
    TABLE_NUMBERS: ClassVar[tuple[TableNumber, ...]] = (
        TableNumber(name="masked_ratio", heading="masked words, %", factor=100.0),
    )
    weights: AgaWeights = AgaWeights()
    """How much each loss counts."""
    masking: Literal["attention", "random", "picked"] = "attention"
    """Which words MLM masks: those that the momentum encoder's [CLS] attends to, RaSa's random ones, or only semantically
    vacuous ones (Table I)."""
    aggregation: Literal["ema", "mean", "last"] = "ema"
    """How the [CLS] attention of the text layers becomes one (Table IV)."""
    beta: Annotated[float, Range(0, below=1)] = 0.95
    """Share of the layers below in the moving average over layers (Eq. 7, Table VIII)."""
    attention_temperature: Positive = 0.02
    """Temperature of the softmax over words (Eq. 8)."""
    alpha_1: Annotated[float, Range(-1, 1)] = 0.05
    """Lower bound of a word's probability of being masked (Eq. 9, Table VII); may be negative, the sum is cut at 0."""
    alpha_2: Share = 0.15
    """Probability that attention adds on average (Eq. 9, times the number of words). So a share of alpha_1 + alpha_2 = 20 %
    of the words is masked, less what is cut off where a word's probability passes 1; the paper says about 15 %."""
    masked_share: Annotated[float, Range(0, below=1)] = 0.0
    """0 = as alpha_1 and alpha_2 give it; else every caption's probabilities are scaled so that their mean is this share:
    0.15 is the paper's."""
    p_tem: Share = 0.3
    """How often a caption is replaced by its enriched one (Table V); 0 = no text enrichment."""
    candidates: Annotated[int, Range(2, because="the original may be one of them")] = 5
    """Likeliest words, the original among them, from which a masked word is replaced: k of Table VI."""
    mlm_probability: PositiveShare = 0.15
    """Share of words masked by `random` and `picked`."""
    mrtd_probability: PositiveShare = 0.3
    """Share of words that are masked before the momentum encoder fills a caption in for m-RTD."""

    def __post_init__(self) -> None:
        check_ranges(self, "method")
        if self.padding != "packed":
            raise ValueError(f"method.padding is {self.padding!r}, expected 'packed': no official code of AGA is public")
        if self.p_tem and not (self.weights.mlm or self.weights.mrtd):
            raise ValueError(
                f"method.p_tem is {self.p_tem}, expected 0 where method.weights.mlm and method.weights.mrtd are 0: no word"
                " is predicted then that could enrich a caption; give one of them a weight"
            )

    def training_heads(self) -> tuple[str, ...]:
        """See the base class."""
        return (*AlbefFamily.training_heads(self), "prd_head.", "mrtd_head.")

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        # Whether a word is masked, which word stands in its place, and whether the enriched caption is shown.
        own = (Draw(name="masked", per="token"), Draw(name="other_word", per="token"), Draw(name="enriched"))
        return replace(
            AlbefFamily.needs(self, image_px), vacuous_words=True, report_vacuous_words=True, draws=(*WORD_DRAWS, *own)
        )

    def check(self, data: Data, evaluation: Evaluation) -> None:
        """See the base class."""
        AlbefFamily.check(self, data, evaluation)
        if self.candidates > self.bert.vocabulary_size:
            raise ValueError(
                f"method.candidates is {self.candidates}, expected at most method.bert.vocabulary_size"
                f" ({self.bert.vocabulary_size})"
            )
