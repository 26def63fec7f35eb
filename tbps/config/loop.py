"""Settings of the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tbps.config.place import PLACE
from tbps.config.ranges import Count, Range, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """How the loop runs."""

    seed: Annotated[int, Range(0, 2**63 - 1)] = 42
    """All random numbers of a run follow from it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: autocast; weights, momentum encoder and queue stay float32."""
    activation_checkpointing: bool = field(default=False, metadata=PLACE)
    """Recompute encoder blocks in backward: less memory, the same losses."""
    compile: bool = field(default=False, metadata=PLACE)
    """torch.compile for the blocks of ALBEF's ViT (CUDA only)."""
    log_steps: Count = field(default=50, metadata=PLACE)
    """Steps between two lines of the log."""
    save_steps: Annotated[int, Range(0, because="0 saves at evaluations and at the end only")] = field(
        default=500, metadata=PLACE
    )
    """Steps between checkpoints; one is also written at each evaluation and at the end."""
    keep_checkpoints: Count = field(default=2, metadata=PLACE)
    """Newest checkpoints that stay, beside the best."""
    wandb: bool = field(default=False, metadata=PLACE)
    """Log to Weights & Biases (offline unless logged in)."""
    timeout_s: Annotated[float, Range(5, because="seconds within which processes are missed")] = field(
        default=600.0, metadata=PLACE
    )
    """Processes that wait longer than this for another one, or for a server of shards, give up; it is named."""
    tensorboard: bool = field(default=True, metadata=PLACE)
    """Write TensorBoard files into the run folder."""

    def __post_init__(self) -> None:
        check_ranges(self, "loop")
