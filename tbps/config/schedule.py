"""Settings of the learning rate over the course of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tbps.config.ranges import Count, CountOrNone, NotNegative, Positive, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine:
    """Learning rate: warm-up, then cosine from the group's rate to `min_lr`."""

    epochs: Positive
    """Length of training in passes over the pairs; the last step is rounded up."""
    min_lr: NotNegative = 1e-6
    """Where the cosine ends, for every group."""
    warmup_steps: CountOrNone = 0
    """Steps in which the rate rises from `warmup_lr` to the group's."""
    warmup_lr: NotNegative = 1e-5
    """Rate of the first step, where there is a warm-up."""
    warmup: Literal["linear", "hold"] = "linear"
    """`linear`, or as the official ALBEF family: `hold` keeps `warmup_lr`, and the rate then rises in `warmup_stairs` jumps.
    That warm-up ends with the first epoch."""
    warmup_stairs: Count = 1
    """Jumps of `hold`, (warmup_steps - 1) / warmup_stairs steps apart. The official `warmup_epochs: 2` is
    `warmup_steps` = 201 and `warmup_stairs` = 2: at 0, then half way up after step 100, at the top after step 200."""
    every: Literal["step", "epoch"] = "step"
    """Cosine evaluated at each step, or at the start of each epoch (the official ALBEF family)."""
    max_steps: CountOrNone = 0
    """Stop after so many steps (0 = after `epochs`); the curve does not change."""
    second_stage_epoch: NotNegative = 0.0
    """Where a second stage begins, with the curve from its start and a new optimiser state (LAIP); 0 = one stage."""

    def __post_init__(self) -> None:
        check_ranges(self, "schedule")
        if self.warmup_stairs > 1 and (self.warmup != "hold" or (self.warmup_steps - 1) % self.warmup_stairs):
            raise ValueError(
                f"schedule.warmup_stairs is {self.warmup_stairs}, expected 1, or schedule.warmup = hold and a divisor of"
                f" schedule.warmup_steps - 1 ({self.warmup_steps - 1}); change one of them"
            )
        if self.second_stage_epoch and not 0 < self.second_stage_epoch < self.epochs:
            raise ValueError(
                f"schedule.second_stage_epoch is {self.second_stage_epoch:g}, expected more than 0 and less than"
                f" schedule.epochs ({self.epochs:g}), or 0 for one stage; change one of them"
            )
