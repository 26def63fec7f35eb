"""Whether the parts of a run fit each other. What concerns one part alone is checked where that part is defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbps.config.run import Run


def check_consistency(run: Run) -> None:
    """ValueError names the two settings that do not fit, and which to change."""
    _check_rates(run)
    if run.data.num_identities and not run.needs.identities:
        raise ValueError(
            f"data.num_identities is {run.data.num_identities}, and {type(run.method).__name__} has no classes of"
            " identities; expected 0"
        )
    if run.data.weak_positive_probability and not run.needs.weak_positives:
        raise ValueError(
            f"data.weak_positive_probability is {run.data.weak_positive_probability:g}, and {type(run.method).__name__}"
            " makes nothing of a caption that was swapped for another; expected 0"
        )
    run.method.check(run.data, run.evaluation)


def _check_rates(run: Run) -> None:
    schedule, optim = run.schedule, run.optim
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
