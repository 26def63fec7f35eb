"""What a numeric setting may be: a range in the field's annotation, checked when the config is made.

    momentum: Annotated[float, Range(0, below=1)] = 0.995

Every numeric field of every config has one (a test walks them all), so that a slip of the keyboard is one sentence before
the first second of GPU time, and never a run that trains in silence with a momentum of 1.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, get_type_hints


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, or of every number of a tuple. No bound lets NaN or infinity through."""

    low: float | None = None
    """Smallest allowed value."""
    high: float | None = None
    """Largest allowed value."""
    above: float | None = None
    """A bound that is itself not allowed: the value must be more."""
    below: float | None = None
    """A bound that is itself not allowed: the value must be less."""
    because: str = ""
    """Why, where the bound alone does not say it."""

    def holds(self, value: float) -> bool:
        """Whether the value is finite and inside."""
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        bounds = (("at least", self.low), ("more than", self.above), ("at most", self.high), ("below", self.below))
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


Count = Annotated[int, Range(1)]
"""1, 2, 3, ..."""
CountOrNone = Annotated[int, Range(0)]
"""0, 1, 2, ...: 0 switches off what is counted, as the field's docstring says."""
Positive = Annotated[float, Range(above=0)]
"""More than 0."""
PositiveOrNone = Annotated[float | None, Range(above=0)]
"""More than 0, or None: not given, and what that means the field's docstring says."""
NotNegative = Annotated[float, Range(0)]
"""0 or more."""
Share = Annotated[float, Range(0, 1)]
"""A probability or a share, 0 to 1."""
PositiveShare = Annotated[float, Range(above=0, high=1)]
"""A probability or a share of which 0 would leave nothing to learn from."""


@cache  # every config that is made asks, and looking up the types of annotations is slow
def ranges_of(kind: type) -> Mapping[str, Range]:
    """The range of each field of a config class that has one."""
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in fields(kind):
        for extra in getattr(hints[field.name], "__metadata__", ()):
            if isinstance(extra, Range):
                found[field.name] = extra
    return found


def check_ranges(config: Any, path: str) -> None:
    """ValueError names the first field that is out of its range. `path`: where the config stands in a run, as `data`."""
    for name, allowed in ranges_of(type(config)).items():  # type: ignore[arg-type]
        value = getattr(config, name)
        values = () if value is None else value if isinstance(value, tuple) else (value,)
        if not all(allowed.holds(one) for one in values):
            because = f": {allowed.because}" if allowed.because else ""
            raise ValueError(f"{path}.{name} is {_shown(value)}, expected {allowed}{because}")


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
