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
    """torch.compile for encoders and cross layers, of every method; without it where it is not possible, or for a part that
    the compiler stumbles over, and that is said. The first step takes minutes longer; BERT's layers are compiled between
    their places of dropout alone."""
    cuda_graphs: bool = field(default=False, metadata=PLACE)
    """Beside `compile`: record compiled parts of fixed shape as CUDA graphs and play them back, for small batches, which the
    host's launches limit; BERT's feed-forward layers and CLIP's text blocks get a multiple of 256 tokens, which changes no
    loss. More memory; without a GPU it is left out."""
    log_steps: Count = field(default=50, metadata=PLACE)
    """Steps between two lines of the log."""
    profile: Annotated[int, Range(0, because="0 profiles nothing")] = field(default=0, metadata=PLACE)
    """Steps that the first process profiles, behind the first two of a start: a Chrome trace in `profile/` of the run
    folder, and the five costliest operations in the log. They are slower, and their losses are the same."""
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
        if self.cuda_graphs and not self.compile:
            raise ValueError(
                "loop.cuda_graphs is True and loop.compile False, expected both: compiled parts are what is recorded; set"
                " --loop.compile True, or leave loop.cuda_graphs out"
            )
