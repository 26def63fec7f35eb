"""Settings of APTM (arXiv 2306.02898)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tbps.config.data import Data
from tbps.config.encoders import Bert, Swin
from tbps.config.evaluation import Evaluation
from tbps.config.mals_prompts import mals_prompts
from tbps.config.methods.albef_family import NEGATIVES
from tbps.config.methods.loss_weights import LossWeights
from tbps.config.methods.method import MethodConfig
from tbps.config.needs import Draw, Needs, Text
from tbps.config.pa_100k_prompts import pa_100k_prompts
from tbps.config.ranges import Count, NotNegative, Positive, PositiveShare, Share, check_ranges
from tbps.config.rewording import Rewording

REWORDED_NEGATIVES = Draw(name="reworded_negatives", numbers=2)
"""As `NEGATIVES`, for the reworded captions."""
MASKS = Draw(name="mlm")
"""Of each caption: the seed of its masks."""
PROMPTS = Draw(name="prompts")
"""Of the first pair of a group: the seed of what the group draws for its prompts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AptmWeights(LossWeights):
    """Weights of APTM's losses; defaults: fine-tuning. 0 leaves a loss out, with what only it needs."""

    itc: NotNegative = 1.0
    """Contrast of images and captions over the whole batch; trains the features that images are ranked by."""
    itm: NotNegative = 1.0
    """Matching: whether an image and a caption belong together, with hard negatives of the group."""
    mlm: NotNegative = 1.0
    """Masked words, guessed by looking at the image."""
    reworded_itc: NotNegative = 0.8
    """Contrast of images and reworded captions."""
    reworded_itm: NotNegative = 0.8
    """Matching of images and reworded captions."""
    attribute_itc: NotNegative = 0.0
    """For each attribute of an image, which of its two prompts is nearer."""
    attribute_itm: NotNegative = 0.0
    """Matching of images and some of the prompts."""
    attribute_mlm: NotNegative = 0.0
    """Masked words of prompts, guessed by looking at an image of which the prompt is true."""

    def __post_init__(self) -> None:
        LossWeights.__post_init__(self)
        if self.captions and not self.itc:
            raise ValueError(
                "method.weights.itc is 0, expected more than 0: it trains the features that images are ranked by, and that"
                " hard negatives are drawn by"
            )
        if not self.captions and not self.attribute_itc:
            raise ValueError(
                "method.weights.attribute_itc is 0 and no loss of captions has a weight, expected more than 0: it trains the"
                " features that images are ranked by"
            )

    @property
    def captions(self) -> bool:
        """Whether a loss reads captions."""
        return bool(self.itc or self.itm or self.mlm or self.reworded)

    @property
    def attributes(self) -> bool:
        """Whether a loss reads attributes and prompts."""
        return bool(self.attribute_itc or self.attribute_itm or self.attribute_mlm)

    @property
    def reworded(self) -> bool:
        """Whether a loss reads reworded captions."""
        return bool(self.reworded_itc or self.reworded_itm)


@dataclass(frozen=True, kw_only=True, slots=True)
class Aptm(MethodConfig):
    """APTM: Swin and BERT, by contrast, matching and masked words of captions, and of attributes where they are known."""

    MODULE: ClassVar[str] = "tbps.methods.albef.aptm"
    swin: Swin = field(default_factory=Swin)
    """Sizes of the image encoder."""
    bert: Bert = Bert()
    """Sizes of the text and cross encoder."""
    weights: AptmWeights = AptmWeights()
    """How much each loss counts."""
    projection: Count = 256
    """Width E of the contrastive features."""
    temperature: Positive = 0.07
    """Start of the learned temperature, not clamped."""
    mlm_share: PositiveShare = 0.25
    """Share of a caption's word pieces that are masked."""
    most_masked: Count = 10
    """The largest number of them."""
    masking: Literal["words", "official"] = "words"
    """`words`: only a caption's words are masked. `official`: its [SEP] and the padding up to `official_tokens` too, of
    which the share is then counted, so that about half of the guesses are padding; it looks like a mistake."""
    official_tokens: Count = 56
    """The length to which the official code fills up captions."""
    itc_gradient: Literal["whole", "official"] = "whole"
    """`whole`: the gradient of the contrast of the whole batch. `official`: features get it divided by the number of groups
    (GPUs), as the official gather does by leaving out what other GPUs' rows say; the temperature gets all of it."""
    label_smoothing: Share = 0.4
    """Of the two-way targets of `attribute_itc` and `attribute_itm`."""
    prompts_matched: Count = 5
    """Prompts of a step that `attribute_itm` shows to every image of a group."""
    prompts: Literal["mals", "pa-100k", "own"] = "mals"
    """Whose attributes the data tell, and so by which sentences: `own` are `own_prompts`."""
    own_prompts: tuple[str, ...] = ()
    """Two sentences for each attribute, one after the other: label 0 says the first, label 1 the second."""
    rewording: Rewording = field(default_factory=Rewording)
    """How captions are reworded."""

    def __post_init__(self) -> None:
        check_ranges(self, "method")
        self._check_prompts()
        if self.bert.full_cross_attention:
            raise ValueError(
                "method.bert.full_cross_attention is on, expected off: APTM's text encoder and cross encoder share no layer"
            )
        if self.masking == "official" and self.official_tokens > self.bert.max_positions:
            raise ValueError(
                f"method.official_tokens is {self.official_tokens}, expected at most method.bert.max_positions"
                f" ({self.bert.max_positions}); change one of them"
            )

    def _check_prompts(self) -> None:
        own = self.own_prompts
        if bool(own) != (self.prompts == "own"):
            raise ValueError(
                f"method.prompts is {self.prompts} and method.own_prompts holds {len(own)} sentences; set prompts to own and"
                " give two sentences for each attribute, or neither"
            )
        if len(own) % 2:
            raise ValueError(
                f"method.own_prompts holds {len(own)} sentences, expected two for each attribute; add the other"
            )
        for first, second in zip(own[::2], own[1::2], strict=True):
            if not first.strip() or not second.strip() or first.strip() == second.strip():
                raise ValueError(
                    f"method.own_prompts pairs {first!r} with {second!r}, expected two different sentences, of which one is"
                    " true of an image; correct them"
                )

    def _prompts(self) -> tuple[str, ...]:
        if self.prompts == "own":
            return self.own_prompts
        return mals_prompts() if self.prompts == "mals" else pa_100k_prompts()

    def training_heads(self) -> tuple[str, ...]:
        """See the base class."""
        return ("temperature", "online.word_head.")

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        return Needs(
            text=Text(
                size=self.bert.vocabulary_size,
                max_tokens=self.bert.max_positions,
                start_id=self.bert.cls_id,
                mask_id=self.bert.mask_id,
                ends=True,
                settings="method.bert",
            ),
            rewording=self.rewording if self.weights.reworded else None,
            captions=self.weights.captions,
            prompts=self._prompts() if self.weights.attributes else (),
            word_starts=True,
            fields=("attributes",) if self.weights.attributes else (),
            draws=(NEGATIVES, REWORDED_NEGATIVES, MASKS, PROMPTS),
            contrast="batch" if self.weights.captions else "group",
        )

    def check(self, data: Data, evaluation: Evaluation) -> None:
        """See the base class."""
        reranks = evaluation.rerank_k and (evaluation.test or evaluation.validation_rerank)
        if reranks and not (self.weights.itm or self.weights.reworded_itm):
            raise ValueError(
                f"method.weights.itm and reworded_itm are 0, and evaluation.rerank_k {evaluation.rerank_k} ranks by the"
                " matching head, which they train; set evaluation.rerank_k 0, or give itm a weight"
            )
        if self.masking == "official" and data.captioning.training_tokens > self.official_tokens:
            raise ValueError(
                f"data.captioning.max_tokens is {data.captioning.training_tokens} in training, expected at most"
                f" method.official_tokens ({self.official_tokens}), to which captions are filled up; change one of them"
            )
