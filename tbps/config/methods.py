"""Hyper-parameters of the methods and how each is built. Heavy modules are imported in `build` only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from tbps.methods.aga import AgaMethod
    from tbps.methods.albef import AlbefMethod
    from tbps.methods.laip import LaipMethod
    from tbps.methods.mars import MarsMethod
    from tbps.methods.rasa import RasaMethod


@dataclass(frozen=True, kw_only=True, slots=True)
class Vit:
    """Vision transformer. Defaults: ViT-B/16."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    patch_px: int = 16
    init_std: float = 0.02
    """Spread of random weights of dense layers; narrow encoders learn faster with about width ** -0.5."""

    def grid(self, image_px: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of an image."""
        return image_px[0] // self.patch_px, image_px[1] // self.patch_px


@dataclass(frozen=True, kw_only=True, slots=True)
class Bert:
    """BERT whose last layers (or all) carry cross-attention to the image. Defaults: BERT-base."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    vocabulary_size: int = 30_522
    max_positions: int = 512
    fusion_layer: int = 6
    """The first `fusion_layer` layers are the text encoder; the rest belong to the cross encoder only."""
    full_cross_attention: bool = False
    """Every layer carries cross-attention and the cross encoder runs all of them from token ids (MARS)."""
    dropout: float = 0.1
    cls_id: int = 101
    """Token id of [CLS] in the vocabulary (bert-base-uncased: 101)."""
    mask_id: int = 103
    """Token id of [MASK] in the vocabulary (bert-base-uncased: 103)."""
    init_std: float = 0.02
    """Spread of random weights of dense layers; narrow encoders learn faster with about width ** -0.5."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"method.bert.dropout is {self.dropout}, expected at least 0 and below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaeDecoder:
    """MARS's image decoder with cross-attention to the text."""

    depth: int = 4
    heads: int = 8
    mask_ratio: float = 0.75


@dataclass(frozen=True, kw_only=True, slots=True)
class AlbefWeights:
    """Weights of ALBEF's losses."""

    itc: float = 1.0
    itm: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RasaWeights:
    """Weights of RaSa's losses (RaSa configs; MARS paper, Eq. 17)."""

    cl: float = 0.5
    pitm: float = 1.0
    mlm: float = 1.0
    prd: float = 0.5
    mrtd: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class MarsWeights:
    """Weights of MARS's losses (MARS paper, Sec. 4.1).

    0 leaves a loss out: mae and attribute with their passes, mlm and mrtd with theirs when both are 0, and the cross encoder
    when all but cl and mae are 0.
    """

    cl: float = 0.5
    pitm: float = 1.0
    mlm: float = 1.0
    prd: float = 0.5
    mrtd: float = 0.5
    mae: float = 1.0
    attribute: float = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AgaWeights:
    """Weights of AGA's losses: RaSa's (AGA, Sec. IV-B: "follows the basic training setting of RaSa").

    0 leaves a loss out as in MARS: Table I's baseline is mlm = 0.
    """

    cl: float = 0.5
    pitm: float = 1.0
    mlm: float = 1.0
    prd: float = 0.5
    mrtd: float = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class LaipWeights:
    """Weights of LAIP's losses (Eq. 1 and 12: each counts once). 0 leaves a loss out, with its passes."""

    itc: float = 1.0
    itm: float = 1.0
    triplet: float = 1.0
    bidir: float = 1.0
    mpm: float = 1.0
    mlm: float = 0.0
    """Masked words of the whole caption in place of phrases (Table V)."""

    def __post_init__(self) -> None:
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
    projection: int = 256
    """Width E of the contrastive features."""
    temperature: float = 0.07
    """Start of the learned temperature, not clamped."""
    queue_pairs: int = 65_536
    momentum: float = 0.995
    alpha: float = 0.4
    """Weight of the momentum twin's soft targets, ramped from 0 over the first epoch."""
    momentum_dropout: bool = True
    """The momentum BERT runs with dropout, as in the official code; off = evaluation mode."""
    padding: Literal["packed", "official"] = "packed"
    """`packed` computes real tokens only; `official` also computes padding, which leaks into two official losses."""


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
    mlm_probability: float = 0.15
    mrtd_probability: float = 0.3
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
    mlm_probability: float = 0.15
    mrtd_probability: float = 0.3
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
    beta: float = 0.95
    """Share of the layers below in the moving average over layers (Eq. 7, Table VIII)."""
    attention_temperature: float = 0.02
    """Of the softmax over words (Eq. 8)."""
    alpha_1: float = 0.05
    """Lower bound of a word's probability of being masked (Eq. 9, Table VII); may be negative, the sum is cut at 0."""
    alpha_2: float = 0.15
    """Probability that attention adds on average (Eq. 9, times the number of words: see `mask_probability`)."""
    p_tem: float = 0.3
    """How often a caption is replaced by its enriched one (Table V); 0 = no text enrichment."""
    candidates: int = 5
    """Likeliest words, the original among them, from which a masked word is replaced: k of Table VI."""
    mlm_probability: float = 0.15
    """Share of words masked by `random` and `picked`."""
    mrtd_probability: float = 0.3

    def __post_init__(self) -> None:
        if self.padding != "packed":
            raise ValueError(f"method.padding is {self.padding!r}, expected 'packed': no official code of AGA is public")
        if not 0 <= self.beta < 1:
            raise ValueError(f"method.beta is {self.beta}, expected at least 0 and below 1")
        if self.attention_temperature <= 0:
            raise ValueError(f"method.attention_temperature is {self.attention_temperature}, expected more than 0")
        if not 0 <= self.p_tem <= 1:
            raise ValueError(f"method.p_tem is {self.p_tem}, expected 0 to 1")
        if self.candidates < 2:
            raise ValueError(f"method.candidates is {self.candidates}, expected at least 2: the original may be one of them")
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
    margin: float = 0.6
    """Of the fusion triplet (Eq. 20, Fig. 6)."""
    attention: Literal["both", "forward", "backward"] = "both"
    """What weighs the patches of an image for a phrase (Table IV)."""
    combination: Literal["product", "sum"] = "product"
    """How forward and backward attention become one (Eq. 7 is lost in our copy of the paper)."""
    attention_layer: int = 3
    """Cross layer whose attention is taken, 1 = the first (Fig. 6). At the last one backward attention is zero."""
    mlm_probability: float = 0.15
    """Share of a caption's words that `mlm` masks."""

    def __post_init__(self) -> None:
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
