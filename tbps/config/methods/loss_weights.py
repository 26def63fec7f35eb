"""Weights of a method's losses."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tbps.config.ranges import check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """A field for each loss, by its name; 0 leaves a loss out."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.weights")

    def by_name(self) -> dict[str, float]:
        """Losses that count, and how much."""
        return {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name)}
