"""Whether the parts of a run fit each other. What concerns one part alone is checked where that part is defined."""

from __future__ import annotations

from tbps.config.data import WITHOUT_CAPTIONS, Captioning, Data
from tbps.config.evaluation import Evaluation
from tbps.config.methods.method import MethodConfig
from tbps.config.needs import Text
from tbps.config.optim import Optimiser
from tbps.config.schedule import Schedule


def check_consistency(
    *, method: MethodConfig, data: Data, optim: Optimiser, schedule: Schedule, evaluation: Evaluation
) -> None:
    """ValueError names the two settings that do not fit, and which to change."""
    _check_rates(schedule, optim)
    needs = method.needs(data.image_px)
    if data.num_identities and not needs.identities:
        raise ValueError(
            f"data.num_identities is {data.num_identities}, and {type(method).__name__} has no classes of"
            " identities; expected 0"
        )
    if data.weak_positive_probability and not needs.weak_positives:
        raise ValueError(
            f"data.weak_positive_probability is {data.weak_positive_probability:g}, and {type(method).__name__}"
            " makes nothing of a caption that was swapped for another; expected 0"
        )
    check_captioning(data.captioning, needs.text)
    if without := [benchmark for benchmark in data.trained_on if benchmark in WITHOUT_CAPTIONS]:
        _check_attributes_alone(data, without[0], evaluation, reads_captions=needs.captions)
    method.check(data, evaluation)


def _check_attributes_alone(data: Data, without: str, evaluation: Evaluation, *, reads_captions: bool) -> None:
    if reads_captions:
        named = f"data.sources hold {without}" if data.sources else f"data.benchmark is {without}"
        raise ValueError(
            f"{named}, which tells attributes alone, and the method reads captions; take other data, or a method that trains"
            " on attributes alone: recipes/aptm.py pa-100k"
        )
    if data.benchmark in WITHOUT_CAPTIONS and (evaluation.test or evaluation.every_epochs):
        raise ValueError(
            f"data.benchmark is {data.benchmark}, which has no captions to search with; set --evaluation.test False and"
            " --evaluation.every-epochs 0"
        )


CLIP_VOCABULARY = "clip"
"""Name of the vocabulary that CLIP's byte pairs make; a run of another text encoder cannot ask for it."""


def check_captioning(captioning: Captioning, text: Text) -> None:
    """ValueError: the vocabulary is of another kind than the text encoder's, or captions are longer than it reads."""
    if text.tokeniser == "clip" and captioning.vocabulary != CLIP_VOCABULARY:
        raise ValueError(
            f"data.captioning.vocabulary is {captioning.vocabulary!r}, expected {CLIP_VOCABULARY!r}: the text encoder reads"
            f" CLIP's byte pairs, which open_clip brings; set --data.captioning.vocabulary {CLIP_VOCABULARY}"
        )
    if text.tokeniser == "bert" and captioning.vocabulary == CLIP_VOCABULARY:
        raise ValueError(
            f"data.captioning.vocabulary is {CLIP_VOCABULARY!r}, expected BERT word pieces, which the text encoder reads;"
            " set --data.captioning.vocabulary to a vocab.txt, a tokenizer.json or a Hugging Face name"
        )
    for name, tokens in (("max_tokens", captioning.max_tokens), ("max_training_tokens", captioning.training_tokens)):
        if tokens > text.max_tokens:
            raise ValueError(
                f"data.captioning.{name} is {tokens}, expected at most {text.max_tokens}, the longest caption that the text"
                f" encoder reads ({text.settings}); change one of them"
            )


def _check_rates(schedule: Schedule, optim: Optimiser) -> None:
    factors = [(1.0, "optim.lr")]
    factors += [
        (rule.factor, f"optim.lr times optim.rules.{place}.factor")
        for place, rule in enumerate(optim.rules)
        if rule.factor is not None
    ]
    factor, lowest_name = min(factors)
    lowest = optim.lr * factor
    if schedule.min_lr > lowest:
        raise ValueError(
            f"schedule.min_lr is {schedule.min_lr:g}, expected at most {lowest_name} ({lowest:g}): the rate would rise;"
            " change one of them"
        )
    if schedule.has_warmup and schedule.warmup_share is None and schedule.warmup_lr > lowest:
        raise ValueError(
            f"schedule.warmup_lr is {schedule.warmup_lr:g}, expected at most {lowest_name} ({lowest:g}): the rate would fall"
            " in the warm-up; change one of them"
        )
