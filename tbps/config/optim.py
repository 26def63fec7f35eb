"""Settings of the optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from tbps.config.ranges import NotNegative, Positive, PositiveOrNone, Range, Share, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What parameters of certain names have of their own. Of several rules for one parameter the later one wins, separately
    for the rate and for decay: a rule that is silent about one of them leaves it as the rules before it made it."""

    pattern: str
    """A part of a parameter's dotted name: `cross` is every parameter with "cross" anywhere in its name. With one of `*`,
    `?` and `[` in it, a pattern of the whole name, as a shell reads it: `*.norm?.bias`."""
    factor: PositiveOrNone = None
    """Rate as a multiple of `optim.lr`; None = not this rule's affair."""
    decay: bool | None = None
    """Whether weight decay pulls on them; None = not this rule's affair."""
    optional: bool = False
    """Whether it may match nothing, which is else an error: what it names may be left out, as a head without its loss."""

    def __post_init__(self) -> None:
        if not self.pattern:
            raise ValueError('optim.rules: a pattern is "", expected a part of parameters\' names; "*" means all of them')
        if self.factor is None and self.decay is None:
            raise ValueError(
                f"optim.rules: the rule for {self.pattern!r} says neither factor nor decay; give it one of them, or leave it"
                " out"
            )
        check_ranges(self, "optim.rules")

    def matches(self, name: str) -> bool:
        """Whether a parameter of that dotted name is meant."""
        if any(sign in self.pattern for sign in "*?["):
            return fnmatchcase(name, self.pattern)
        return self.pattern in name


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimiser:
    """Adam, with rates and weight decay by parameter name."""

    kind: Literal["adamw", "adam"] = "adamw"
    """`adamw`: decay is decoupled: a step takes `weight_decay` times the learning rate off a weight. `adam`: decay is
    coupled: `weight_decay` times the weight is added to its gradient, and so goes through Adam's averages (L2; IRRA)."""
    lr: Annotated[float, Range(above=0, high=1)]
    """Learning rate at its highest: after warm-up, before the schedule's curve. A rule multiplies it."""
    rules: tuple[Rule, ...] = ()
    """Rates and decay of certain parameters; later ones win."""
    weight_decay: Share = 0.02
    """Share of a weight by which it is pulled to 0; how, `kind` says."""
    decay_vectors: bool = False
    """Whether decay pulls on tensors of exactly one dimension, which are biases and gains of norms, where no rule says so:
    not in the ALBEF family's official code; IRRA decays them, all but biases."""
    betas: Annotated[tuple[float, float], Range(0, below=1)] = (0.9, 0.999)
    """How much of their past the averages of gradients and of their squares keep."""
    eps: Positive = 1e-8
    """Added to the root of the averaged squares, so that nothing is divided by 0."""
    clip_norm: NotNegative = 0.0
    """Largest gradient norm; 0 = no clipping."""

    def __post_init__(self) -> None:
        check_ranges(self, "optim")

    def factor_of(self, name: str) -> float | None:
        """The rate of a parameter as a multiple of `lr`; None where no rule names it."""
        return next((rule.factor for rule in reversed(self.rules) if rule.factor is not None and rule.matches(name)), None)

    def decays(self, name: str, *, dimensions: int) -> bool:
        """Whether decay pulls on a parameter with so many dimensions."""
        said = next((rule.decay for rule in reversed(self.rules) if rule.decay is not None and rule.matches(name)), None)
        # A tensor without dimensions, such as a temperature, decays.
        return (self.decay_vectors or dimensions != 1) if said is None else said
