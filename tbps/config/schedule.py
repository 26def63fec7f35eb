"""Settings of the learning rate over the course of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tbps.config.ranges import Count, CountOrNone, NotNegative, Positive, Range, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Learning rate: a warm-up, then a curve from each parameter group's own rate down to `min_lr`.

    IRRA's: `warmup_epochs` 5, `warmup_share` 0.1, `every` epoch, `min_lr` 0. APTM's in pretraining: `curve` linear,
    `warmup_steps` 2600, `warmup_share` 0, `min_lr` 0; in fine-tuning: `linear-drops`, a tenth of the epochs.
    """

    epochs: Positive
    """Length of training in passes over the pairs; the last step is rounded up."""
    curve: Literal["cosine", "linear", "linear-drops"] = "cosine"
    """How the rate falls after the warm-up: along half a cosine, or in a straight line. `linear-drops`: that line times 0.5
    from four times the length of the warm-up on, times 0.2 from seven times on (APTM's fine-tuning)."""
    min_lr: NotNegative = 1e-6
    """Where the curve ends, for every group."""
    warmup_steps: CountOrNone = 0
    """Steps in which the rate rises to the group's; 0 = no warm-up, or one in epochs."""
    warmup_epochs: NotNegative = 0.0
    """The length of the warm-up in epochs, in place of `warmup_steps`."""
    warmup_lr: NotNegative = 1e-5
    """Rate of the first step, where there is a warm-up: the same for every group."""
    warmup_share: Annotated[float | None, Range(0, 1)] = None
    """Rate of the first step as a share of the group's own, in place of `warmup_lr`; None = `warmup_lr` holds."""
    warmup: Literal["linear", "hold"] = "linear"
    """`linear`, or as the official ALBEF family: `hold` keeps `warmup_lr`, and the rate then rises in `warmup_stairs` jumps.
    That warm-up ends with the first epoch."""
    warmup_stairs: Count = 1
    """Jumps of `hold`, (warmup_steps - 1) / warmup_stairs steps apart. The official `warmup_epochs: 2` is
    `warmup_steps` = 201 and `warmup_stairs` = 2: at 0, then half way up after step 100, at the top after step 200."""
    every: Literal["step", "epoch"] = "step"
    """When curve, and warm-up in epochs, are evaluated: at each step, or at the start of each epoch (official ALBEF family,
    IRRA)."""
    max_steps: CountOrNone = 0
    """Stop after so many steps (0 = after `epochs`); the curve does not change."""
    second_stage_epoch: NotNegative = 0.0
    """Where a second stage begins, with the curve from its start and a new optimiser state (LAIP); 0 = one stage."""

    def __post_init__(self) -> None:
        check_ranges(self, "schedule")
        if self.warmup_epochs and (self.warmup_steps or self.warmup == "hold"):
            other = f"schedule.warmup_steps is {self.warmup_steps}" if self.warmup_steps else "schedule.warmup is hold"
            raise ValueError(
                f"schedule.warmup_epochs is {self.warmup_epochs:g} and {other}, expected one length of a linear warm-up, or"
                " schedule.warmup_steps of a held one; set schedule.warmup_epochs to 0, or change the other"
            )
        if self.curve == "linear-drops" and (self.warmup == "hold" or not self.has_warmup):
            raise ValueError(
                "schedule.curve is linear-drops without a linear warm-up, expected one, of whose length the drops are"
                " multiples; set schedule.warmup_epochs, or the curve to linear"
            )
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

    @property
    def has_warmup(self) -> bool:
        """Whether the rate rises before it falls."""
        return bool(self.warmup_steps or self.warmup_epochs)
