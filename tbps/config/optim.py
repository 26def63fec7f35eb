"""Settings of the optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tbps.config.ranges import NotNegative, Positive, Range, Share, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamW:
    """Optimiser. No decay where a tensor has exactly one dimension (biases, norms), as the official code has it."""

    lr: Annotated[float, Range(above=0, high=1)]
    """Learning rate of the encoders, before warm-up and cosine."""
    head_lr: Annotated[float, Range(above=0, high=1)]
    """Rate of the heads named in `head_names`."""
    head_names: tuple[str, ...] = ("prd_head", "mrtd_head")
    """Modules that train at `head_lr`: any part of a parameter's dotted name."""
    weight_decay: Share = 0.02
    """Decoupled decay: a step takes this share, times the learning rate, off a weight."""
    betas: Annotated[tuple[float, float], Range(0, below=1)] = (0.9, 0.999)
    """How much of their past the averages of gradients and of their squares keep."""
    eps: Positive = 1e-8
    """Added to the root of the averaged squares, so that nothing is divided by 0."""
    clip_norm: NotNegative = 0.0
    """Largest gradient norm; 0 = no clipping."""

    def __post_init__(self) -> None:
        check_ranges(self, "optim")
