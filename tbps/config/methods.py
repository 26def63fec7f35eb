"""Hyper-parameters of the methods and how each is built. Heavy modules are imported in `build` only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tbps.config.encoders import Bert, MaeDecoder, Vit
from tbps.config.ranges import Count, NotNegative, Positive, PositiveShare, Range, Share, check_ranges

if TYPE_CHECKING:
    from tbps.methods.aga import AgaMethod
    from tbps.methods.albef import AlbefMethod
    from tbps.methods.laip import LaipMethod
    from tbps.methods.mars import MarsMethod
    from tbps.methods.rasa import RasaMethod


def _check_weights(weights: Any) -> None:
    check_ranges(weights, "method.weights")
    names = [field.name for field in fields(weights)]
    if not any(getattr(weights, name) for name in names):
        raise ValueError(f"every weight in method.weights ({', '.join(names)}) is 0, expected at least one loss to train by")


@dataclass(frozen=True, kw_only=True, slots=True)
class AlbefWeights:
    """Weights of ALBEF's losses."""

    itc: NotNegative = 1.0
    itm: NotNegative = 1.0

    def __post_init__(self) -> None:
        _check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RasaWeights:
    """Weights of RaSa's losses (RaSa configs; MARS paper, Eq. 17)."""

    cl: NotNegative = 0.5
    pitm: NotNegative = 1.0
    mlm: NotNegative = 1.0
    prd: NotNegative = 0.5
    mrtd: NotNegative = 0.5

    def __post_init__(self) -> None:
        _check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class MarsWeights:
    """Weights of MARS's losses (MARS paper, Sec. 4.1).

    0 leaves a loss out: mae and attribute with their passes, mlm and mrtd with theirs when both are 0, and the cross encoder
    when all but cl and mae are 0.
    """

    cl: NotNegative = 0.5
    pitm: NotNegative = 1.0
    mlm: NotNegative = 1.0
    prd: NotNegative = 0.5
    mrtd: NotNegative = 0.5
    mae: NotNegative = 1.0
    attribute: NotNegative = 2.0

    def __post_init__(self) -> None:
        _check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class AgaWeights:
    """Weights of AGA's losses: RaSa's (AGA, Sec. IV-B: "follows the basic training setting of RaSa").

    0 leaves a loss out as in MARS: Table I's baseline is mlm = 0.
    """

    cl: NotNegative = 0.5
    pitm: NotNegative = 1.0
    mlm: NotNegative = 1.0
    prd: NotNegative = 0.5
    mrtd: NotNegative = 0.5

    def __post_init__(self) -> None:
        _check_weights(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class LaipWeights:
    """Weights of LAIP's losses (Eq. 1 and 12: each counts once). 0 leaves a loss out, with its passes."""

    itc: NotNegative = 1.0
    itm: NotNegative = 1.0
    triplet: NotNegative = 1.0
    bidir: NotNegative = 1.0
    mpm: NotNegative = 1.0
    mlm: NotNegative = 0.0
    """Masked words of the whole caption in place of phrases (Table V)."""

    def __post_init__(self) -> None:
        _check_weights(self)
        if self.itm <= 0:
            raise ValueError(
                f"method.weights.itm is {self.itm:g}, expected more than 0: without matching, no loss of LAIP trains the"
                " whole cross encoder"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _AlbefFamily:
    ZERO_STAGES: ClassVar[tuple[int, ...]] = (1, 2, 3)
    """Stages of DeepSpeed's ZeRO under which it trains as it does under DDP."""

    vit: Vit = Vit()
    bert: Bert = Bert()
    projection: Count = 256
    """Width E of the contrastive features."""
    temperature: Positive = 0.07
    """Start of the learned temperature, not clamped."""
    queue_pairs: Annotated[int, Range(1, because="contrast reads the features of past steps")] = 65_536
    """Past pairs whose momentum features contrast with a step's own."""
    momentum: Annotated[float, Range(0, below=1)] = 0.995
    """Share of its old weights that the momentum twin keeps in a step."""
    alpha: Share = 0.4
    """Weight of the momentum twin's soft targets, ramped from 0 over the first epoch."""
    momentum_dropout: bool = True
    """The momentum BERT runs with dropout, as in the official code; off = evaluation mode."""
    padding: Literal["packed", "official"] = "packed"
    """`packed` computes real tokens only; `official` also computes padding, which leaks into two official losses."""
    empty_queue: Literal["counted", "ignored"] = "counted"
    """Places of the queue that hold nothing yet are candidates with random features, as in the official code, or none: of
    the paper's queue they take half to nearly all of the first steps' softmax, which the log says."""

    def __post_init__(self) -> None:
        check_ranges(self, "method")


@dataclass(frozen=True, kw_only=True, slots=True)
class Albef(_AlbefFamily):
    """ALBEF fine-tuned for retrieval: ITC + ITM (arXiv 2107.07651)."""

    weights: AlbefWeights = AlbefWeights()
    keep_word_head: bool = False
    """Carry BERT's word head along, untrained, for a method that goes on from here (LAIP)."""

    def build(self, *, image_px: tuple[int, int]) -> AlbefMethod:
        """The method with random weights."""
        from tbps.methods.albef import AlbefMethod
        from tbps.methods.assembly import family_arguments

        arguments = family_arguments(self, image_px=image_px)
        return AlbefMethod(**arguments, weights=self.weights, word_head=self.keep_word_head)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rasa(_AlbefFamily):
    """RaSa: relation- and sensitivity-aware learning (arXiv 2305.13653)."""

    weights: RasaWeights = RasaWeights()
    mlm_probability: PositiveShare = 0.15
    """Share of words that MLM masks."""
    mrtd_probability: PositiveShare = 0.3
    """Share of words that are masked before the twin fills a caption in for m-RTD."""
    mlm_soft: Literal["vocabulary", "sequence"] = "vocabulary"
    """Soft MLM labels against a softmax over the vocabulary, or over positions (a typo behind the published numbers,
    salesforce/ALBEF issue 58; needs padding = official to be exact)."""

    def build(self, *, image_px: tuple[int, int]) -> RasaMethod:
        """The method with random weights."""
        from tbps.methods.assembly import family_arguments
        from tbps.methods.rasa import RasaMethod

        return RasaMethod(
            **family_arguments(self, image_px=image_px),
            weights=self.weights,
            mlm_probability=self.mlm_probability,
            mrtd_probability=self.mrtd_probability,
            mlm_soft=self.mlm_soft,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Mars(_AlbefFamily):
    """MARS: RaSa with full cross-attention, attribute loss and text-aware MAE (papers: mars)."""

    bert: Bert = Bert(full_cross_attention=True)
    weights: MarsWeights = MarsWeights()
    mae: MaeDecoder = MaeDecoder()
    mlm_probability: PositiveShare = 0.15
    """Share of words that MLM masks."""
    mrtd_probability: PositiveShare = 0.3
    """Share of words that are masked before the twin fills a caption in for m-RTD."""
    mlm_soft: Literal["vocabulary", "sequence"] = "vocabulary"
    """As in RaSa."""
    attribute_head: Literal["shared", "own"] = "shared"
    """Chunks are judged by the ITM head, or by a head of their own (Table 2, w/o shared head)."""
    attribute_weighting: Literal["uniform", "frequency"] = "uniform"
    """`frequency`: common words weigh less (Eq. 14-15; Table 2, AL rebalanced)."""

    def build(self, *, image_px: tuple[int, int]) -> MarsMethod:
        """The method with random weights."""
        from tbps.methods.assembly import family_arguments
        from tbps.methods.mars import MarsMethod

        return MarsMethod(
            **family_arguments(self, image_px=image_px),
            weights=self.weights,
            mae_depth=self.mae.depth,
            mae_heads=self.mae.heads,
            mae_mask_ratio=self.mae.mask_ratio,
            mlm_probability=self.mlm_probability,
            mrtd_probability=self.mrtd_probability,
            mlm_soft=self.mlm_soft,
            attribute_head=self.attribute_head,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Aga(_AlbefFamily):
    """AGA: RaSa with attention-guided masking and text enrichment (papers: aga)."""

    weights: AgaWeights = AgaWeights()
    masking: Literal["attention", "random", "picked"] = "attention"
    """Which words MLM masks: those that the twin's [CLS] attends to, RaSa's random ones, or only semantically vacuous ones
    (Table I)."""
    aggregation: Literal["ema", "mean", "last"] = "ema"
    """How the [CLS] attention of the text layers becomes one (Table IV)."""
    beta: Annotated[float, Range(0, below=1)] = 0.95
    """Share of the layers below in the moving average over layers (Eq. 7, Table VIII)."""
    attention_temperature: Positive = 0.02
    """Of the softmax over words (Eq. 8)."""
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
    """Share of words that are masked before the twin fills a caption in for m-RTD."""

    def __post_init__(self) -> None:
        check_ranges(self, "method")
        if self.padding != "packed":
            raise ValueError(f"method.padding is {self.padding!r}, expected 'packed': no official code of AGA is public")
        if self.p_tem and not (self.weights.mlm or self.weights.mrtd):
            raise ValueError(
                f"method.p_tem is {self.p_tem}, expected 0 where method.weights.mlm and method.weights.mrtd are 0: no word"
                " is predicted then that could enrich a caption; give one of them a weight"
            )

    def build(self, *, image_px: tuple[int, int]) -> AgaMethod:
        """The method with random weights."""
        from tbps.methods.aga import AgaMethod
        from tbps.methods.assembly import family_arguments

        return AgaMethod(
            **family_arguments(self, image_px=image_px),
            weights=self.weights,
            masking=self.masking,
            aggregation=self.aggregation,
            beta=self.beta,
            attention_temperature=self.attention_temperature,
            alpha_1=self.alpha_1,
            alpha_2=self.alpha_2,
            masked_share=self.masked_share,
            p_tem=self.p_tem,
            candidates=self.candidates,
            mlm_probability=self.mlm_probability,
            mrtd_probability=self.mrtd_probability,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Laip(_AlbefFamily):
    """LAIP: ALBEF with a fusion triplet, attention-weighted phrases and masked phrases (papers: laip)."""

    ZERO_STAGES: ClassVar[tuple[int, ...]] = (1, 2)
    """Under stage 3 weights are released after forward, and backward attention is a gradient taken inside it."""

    weights: LaipWeights = LaipWeights()
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

    def build(self, *, image_px: tuple[int, int]) -> LaipMethod:
        """The method with random weights."""
        from tbps.methods.assembly import family_arguments
        from tbps.methods.laip import LaipMethod

        return LaipMethod(
            **family_arguments(self, image_px=image_px),
            weights=self.weights,
            margin=self.margin,
            attention=self.attention,
            combination=self.combination,
            attention_layer=self.attention_layer,
            mlm_probability=self.mlm_probability,
        )
