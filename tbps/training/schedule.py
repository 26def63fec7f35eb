"""Learning rate of a step: warm-up, then a curve from the group's rate to the floor. A pure function, no state.

Source: the cosine scheduler of the ALBEF, RaSa and MARS code, whose epoch-wise curve and 101 held iterations are `every`
= epoch, `warmup` = hold, `warmup_steps` = 101. Its `warmup_epochs: W` counts in units of 100 iterations: W stairs of 100
steps, `warmup_steps` = 100 W + 1 and `warmup_stairs` = W, all within the first epoch. IRRA's (anosorae/IRRA solver/
lr_scheduler.py) and APTM's (Shuyu-XJTU/APTM scheduler.py: `linear`, and `step`, our `linear-drops`) are named in `Schedule`.
"""

from __future__ import annotations

import math

from tbps.config.schedule import Schedule

# A step count divided by a fractional number of steps per epoch may come out a hair below a whole epoch.
_ROUNDING = 1e-9


def total_steps(schedule: Schedule, *, steps_per_epoch: float) -> int:
    """Optimiser steps of the whole run: `epochs` rounded up to a whole step, or `max_steps` if that is fewer."""
    steps = max(1, math.ceil(schedule.epochs * steps_per_epoch - _ROUNDING))
    return min(steps, schedule.max_steps) if schedule.max_steps else steps


def second_stage_step(schedule: Schedule, *, steps_per_epoch: float) -> int:
    """First step (from 0) of the second stage; 0 where there is one stage."""
    return math.ceil(schedule.second_stage_epoch * steps_per_epoch - _ROUNDING)


def learning_rate(schedule: Schedule, *, step: int, steps_per_epoch: float, base_lr: float) -> float:
    """Rate of a parameter group with `base_lr` in optimiser step `step` (from 0).

    r(p) = min_lr + (base_lr - min_lr) (1 + cos(pi p)) / 2, or linear: min_lr + (base_lr - min_lr) (1 - p), of which
    `linear-drops` leaves a half of the difference from step 4 W on, a fifth from 7 W on. p is the share of training behind
    us: of the whole of it after a held warm-up (official), of the part after the warm-up where it rises linearly, so that
    the curve has no jump. In a linear warm-up of W steps (or epochs) r = first + (base_lr - first)
    step / W. Each of two stages has the whole curve. A held warm-up ends with its first epoch, whatever its length
    (official).
    """
    epochs, second = schedule.epochs, second_stage_step(schedule, steps_per_epoch=steps_per_epoch)
    if second:
        epochs = schedule.second_stage_epoch if step < second else epochs - schedule.second_stage_epoch
        step -= 0 if step < second else second
    hold = schedule.warmup == "hold"
    position = float(step)
    if schedule.every == "epoch":
        position = math.floor(step / steps_per_epoch + _ROUNDING) * steps_per_epoch
    # A warm-up in steps rises at every step; one in epochs where the curve falls, at every step or every epoch.
    warmed, length = float(step), float(schedule.warmup_steps)
    if schedule.warmup_epochs:
        warmed, length = position, schedule.warmup_epochs * steps_per_epoch
    if warmed < length - _ROUNDING and not (hold and step >= steps_per_epoch - _ROUNDING):
        share = _stair(schedule, step) if hold else warmed / length
        first = schedule.warmup_lr if schedule.warmup_share is None else schedule.warmup_share * base_lr
        return first + (base_lr - first) * share
    start = 0 if hold else length
    rest = epochs * steps_per_epoch - start
    progress = min(1.0, max(0.0, (position - start) / rest)) if rest > 0 else 1.0
    left = 0.5 * (1 + math.cos(math.pi * progress)) if schedule.curve == "cosine" else 1 - progress
    if schedule.curve == "linear-drops":
        left *= 1.0 if warmed < 4 * length else 0.5 if warmed < 7 * length else 0.2
    return schedule.min_lr + (base_lr - schedule.min_lr) * left


def _stair(schedule: Schedule, step: int) -> float:
    """Share of the way up in a held warm-up: 0 at first, one jump after each stair. The first one has one step more."""
    length = max(1, (schedule.warmup_steps - 1) // schedule.warmup_stairs)
    return max(0, math.ceil(step / length) - 1) / schedule.warmup_stairs
