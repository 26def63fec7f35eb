"""Settings of low-rank adapters (LoRA)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from tbps.config.ranges import Count, Positive, check_ranges

TARGETS = ("q", "k", "v", "out", "fc1", "fc2")
"""What `Lora.targets` may name; tbps/nn/lora.py says which layers those are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Adapters on frozen encoders; heads are trained whole. The defaults are BAMG's ranks, on nothing."""

    targets: str = ""
    """Layers that carry an adapter, with commas between them: q, k, v and out of attention, fc1 and fc2 of the MLP.
    Empty: no adapters, and the encoders are trained whole."""
    rank: Count = 16
    """Rows of A and columns of B: how much an adapter can learn."""
    alpha: Positive = 32.0
    """An adapter's output is multiplied by alpha / rank."""
    base: Literal["fp32", "bf16"] = "fp32"
    """How the frozen weights of linear layers are kept; bf16 takes half the memory and needs loop.precision bf16."""

    adapters: str = ""
    """Adapters and heads to start from, on the same base: a file that `tbps convert --export` wrote of such a run, or its
    folder. Empty: adapters start anew."""

    def __post_init__(self) -> None:
        check_ranges(self, "lora")
        if any(name not in TARGETS for name in self.names) or bool(self.targets) != self.on:
            raise ValueError(
                f"lora.targets is {self.targets!r}, expected some of {', '.join(TARGETS)}, with commas between them, or"
                " nothing"
            )
        without_effect = [field for field in fields(self) if getattr(self, field.name) != field.default and not self.on]
        if without_effect:
            name = without_effect[0].name
            raise ValueError(
                f"lora.{name} is {getattr(self, name)}, and lora.targets is empty: name the layers that adapters sit on, as"
                f" q,k,v,out, or leave lora.{name} out"
            )

    @property
    def on(self) -> bool:
        """Whether there are adapters."""
        return bool(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """The targets, each once."""
        return tuple(dict.fromkeys(name.strip() for name in self.targets.split(",") if name.strip()))
