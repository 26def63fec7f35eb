"""Settings that ALBEF and the methods built on it share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from tbps.config.data import Data
from tbps.config.encoders import Bert, Vit
from tbps.config.evaluation import Evaluation
from tbps.config.methods.method import MethodConfig
from tbps.config.needs import Draw, Needs, Text
from tbps.config.ranges import Count, Positive, Range, Share, check_ranges

NEGATIVES = Draw(name="negatives", numbers=2)
"""Places on the cumulated probabilities of hard negatives: of the image of each caption (0), of the caption of each image
(1)."""


def masking_draw(name: str) -> Draw:
    """What `tbps.objectives.masking.token_mask` makes a mask of."""
    return Draw(name=name, per="token", numbers=4)


WORD_DRAWS = (NEGATIVES, masking_draw("mlm"), masking_draw("mrtd"), Draw(name="words", per="token"))
"""What RaSa and its descendants draw: hard negatives, masks for MLM and for m-RTD's generator, places on the cumulated
probabilities of the generator's words. All of it whatever the losses' weights, so that a run without a loss makes the other
choices that a run with it makes: rows of an ablation differ by what they ablate."""


def check_weights(weights: Any) -> None:
    """ValueError: a weight is out of its range, or all are 0."""
    check_ranges(weights, "method.weights")
    names = [field.name for field in fields(weights)]
    if not any(getattr(weights, name) for name in names):
        raise ValueError(f"every weight in method.weights ({', '.join(names)}) is 0, expected at least one loss to train by")


@dataclass(frozen=True, kw_only=True, slots=True)
class AlbefFamily(MethodConfig):
    """Settings that ALBEF and the methods built on it share."""

    vit: Vit = Vit()
    """Sizes of the image encoder."""
    bert: Bert = Bert()
    """Sizes of the text and cross encoder."""
    projection: Count = 256
    """Width E of the contrastive features."""
    temperature: Positive = 0.07
    """Start of the learned temperature, not clamped."""
    queue_pairs: Annotated[int, Range(1, because="contrast reads the features of past steps")] = 65_536
    """Past pairs whose momentum features contrast with a step's own."""
    momentum: Annotated[float, Range(0, below=1)] = 0.995
    """Share of its old weights that the momentum encoder keeps in a step."""
    alpha: Share = 0.4
    """Weight of the momentum encoder's soft targets, ramped from 0 over the first epoch."""
    momentum_dropout: bool = True
    """The momentum BERT runs with dropout, as in the official code; off = evaluation mode."""
    padding: Literal["packed", "official"] = "packed"
    """`packed` computes real tokens only; `official` also computes padding, which leaks into two official losses."""
    empty_queue: Literal["counted", "ignored"] = "counted"
    """Places of the queue that hold nothing yet are candidates with random features, as in the official code, or none: of
    the paper's queue they take half to nearly all of the first steps' softmax, which the log says."""

    def __post_init__(self) -> None:
        check_ranges(self, "method")

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """See the base class."""
        return Needs(
            text=Text(
                size=self.bert.vocabulary_size,
                max_tokens=self.bert.max_positions,
                start_id=self.bert.cls_id,
                mask_id=self.bert.mask_id,
                settings="method.bert",
            ),
            second_view=True,
            weak_positives=True,
        )

    def training_heads(self) -> tuple[str, ...]:
        """See the base class."""
        return ("temperature", "online.word_head.")

    def grid(self, image_px: tuple[int, int]) -> tuple[int, int]:
        """See the base class."""
        return self.vit.grid(image_px)

    def check(self, data: Data, evaluation: Evaluation) -> None:
        """See the base class."""
        if any(side % self.vit.patch_px for side in data.image_px):
            raise ValueError(
                f"data.image_px is {data.image_px[0]} {data.image_px[1]}, expected multiples of method.vit.patch_px"
                f" ({self.vit.patch_px}): the rest of an image would not be seen; change one of them"
            )
        self.check_matching(evaluation)

    def check_matching(self, evaluation: Evaluation, *, loss: str = "pitm") -> None:
        """ValueError where the matching head ranks and `loss`, which trains it, has no weight."""
        reranks = evaluation.rerank_k and (evaluation.test or evaluation.validation_rerank)
        if reranks and not getattr(self.weights, loss):  # type: ignore[attr-defined]
            raise ValueError(
                f"method.weights.{loss} is 0, and evaluation.rerank_k {evaluation.rerank_k} ranks by the matching head,"
                " which that loss alone trains; set evaluation.rerank_k 0, or give the loss a weight"
            )
