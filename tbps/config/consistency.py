"""Whether the parts of a run fit each other. What concerns one part alone is checked where that part is defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbps.config.run import Run


def check_consistency(run: Run) -> None:
    """ValueError names the two settings that do not fit, and which to change."""
    _check_image(run)
    _check_captions(run)
    _check_rates(run)
    _check_matching(run)


def _check_image(run: Run) -> None:
    vit, image_px = run.method.vit, run.data.image_px
    if any(side % vit.patch_px for side in image_px):
        raise ValueError(
            f"data.image_px is {image_px[0]} {image_px[1]}, expected multiples of method.vit.patch_px ({vit.patch_px}): the"
            " rest of an image would not be seen; change one of them"
        )
    mae = getattr(run.method, "mae", None)
    if mae is None:
        return
    if vit.width % mae.heads:
        raise ValueError(
            f"method.vit.width is {vit.width}, expected a multiple of method.mae.heads ({mae.heads}); change one of them"
        )
    rows, columns = vit.grid(image_px)
    kept = int(rows * columns * (1 - mae.mask_ratio))
    if not 0 < kept < rows * columns:
        raise ValueError(
            f"method.mae.mask_ratio is {mae.mask_ratio}, which keeps {kept} of {rows * columns} patches; expected at least"
            " one kept and one removed"
        )


def _check_captions(run: Run) -> None:
    bert, captioning = run.method.bert, run.data.captioning
    for name, tokens in (("max_tokens", captioning.max_tokens), ("max_training_tokens", captioning.training_tokens)):
        if tokens > bert.max_positions:
            raise ValueError(
                f"data.captioning.{name} is {tokens}, expected at most method.bert.max_positions ({bert.max_positions});"
                " change one of them"
            )
    candidates = getattr(run.method, "candidates", 0)
    if candidates > bert.vocabulary_size:
        raise ValueError(
            f"method.candidates is {candidates}, expected at most method.bert.vocabulary_size ({bert.vocabulary_size})"
        )


def _check_rates(run: Run) -> None:
    schedule, optim = run.schedule, run.optim
    lowest, lowest_name = min((optim.lr, "optim.lr"), (optim.head_lr, "optim.head_lr"))
    if schedule.min_lr > lowest:
        raise ValueError(
            f"schedule.min_lr is {schedule.min_lr:g}, expected at most {lowest_name} ({lowest:g}): the rate would rise;"
            " change one of them"
        )
    if schedule.warmup_steps and schedule.warmup_lr > lowest:
        raise ValueError(
            f"schedule.warmup_lr is {schedule.warmup_lr:g}, expected at most {lowest_name} ({lowest:g}): the rate would fall"
            " in the warm-up; change one of them"
        )


def _check_matching(run: Run) -> None:
    evaluation = run.evaluation
    name = "itm" if hasattr(run.method.weights, "itm") else "pitm"
    reranks = evaluation.rerank_k and (evaluation.test or evaluation.validation_rerank)
    if reranks and not getattr(run.method.weights, name):
        raise ValueError(
            f"method.weights.{name} is 0, and evaluation.rerank_k {evaluation.rerank_k} ranks by the matching head, which"
            " that loss alone trains; set evaluation.rerank_k 0, or give the loss a weight"
        )
