"""Learning rate of a step: warm-up, then a cosine from the group's rate to the floor. A pure function, no state.

Source: the cosine scheduler of the ALBEF, RaSa and MARS code, whose epoch-wise curve and 101 held iterations are `every`
= epoch, `warmup` = hold, `warmup_steps` = 101. Its `warmup_epochs: W` counts in units of 100 iterations: W stairs of 100
steps, `warmup_steps` = 100 W + 1 and `warmup_stairs` = W, all within the first epoch.
"""

from __future__ import annotations

import math

from tbps.config.schedule import Cosine

# A step count divided by a fractional number of steps per epoch may come out a hair below a whole epoch.
_ROUNDING = 1e-9


def total_steps(schedule: Cosine, *, steps_per_epoch: float) -> int:
    """Optimiser steps of the whole run: `epochs` rounded up to a whole step, or `max_steps` if that is fewer."""
    steps = max(1, math.ceil(schedule.epochs * steps_per_epoch - _ROUNDING))
    return min(steps, schedule.max_steps) if schedule.max_steps else steps


def second_stage_step(schedule: Cosine, *, steps_per_epoch: float) -> int:
    """First step (from 0) of the second stage; 0 where there is one stage."""
    return math.ceil(schedule.second_stage_epoch * steps_per_epoch - _ROUNDING)


def learning_rate(schedule: Cosine, *, step: int, steps_per_epoch: float, base_lr: float) -> float:
    """Rate of a parameter group with `base_lr` in optimiser step `step` (from 0).

    r(p) = min_lr + (base_lr - min_lr) (1 + cos(pi p)) / 2. p is the share of training behind us: of the whole of it
    after a held warm-up (official), of the part after the warm-up where it rises linearly, so that the curve has no jump.
    Each of two stages has the whole curve. A held warm-up ends with its first epoch, whatever its length (official).
    """
    epochs, second = schedule.epochs, second_stage_step(schedule, steps_per_epoch=steps_per_epoch)
    if second:
        epochs = schedule.second_stage_epoch if step < second else epochs - schedule.second_stage_epoch
        step -= 0 if step < second else second
    hold = schedule.warmup == "hold"
    if step < schedule.warmup_steps and not (hold and step >= steps_per_epoch - _ROUNDING):
        share = _stair(schedule, step) if hold else step / schedule.warmup_steps
        return schedule.warmup_lr + (base_lr - schedule.warmup_lr) * share
    position = float(step)
    if schedule.every == "epoch":
        position = math.floor(step / steps_per_epoch + _ROUNDING) * steps_per_epoch
    start = 0 if hold else schedule.warmup_steps
    length = epochs * steps_per_epoch - start
    progress = min(1.0, max(0.0, (position - start) / length)) if length > 0 else 1.0
    return schedule.min_lr + (base_lr - schedule.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def _stair(schedule: Cosine, step: int) -> float:
    """Share of the way up in a held warm-up: 0 at first, one jump after each stair. The first one has one step more."""
    length = max(1, (schedule.warmup_steps - 1) // schedule.warmup_stairs)
    return max(0, math.ceil(step / length) - 1) / schedule.warmup_stairs
