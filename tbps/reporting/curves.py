"""A run's numbers over its steps, read from `metrics.jsonl` and thinned to what a chart can show."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)

MAX_POINTS = 300
"""Points of a curve; of more, neighbours are averaged."""
Points = list[tuple[float, float]]


@dataclass(kw_only=True)
class Curves:
    """Numbers by name, each a list of (step, value)."""

    training: dict[str, Points] = field(default_factory=dict)
    """`loss`, `loss/<name>`, `lr`, `lr/<rules of a rate>`, ..."""
    evaluation: dict[str, dict[str, Points]] = field(default_factory=dict)
    """By split."""
    num_broken_lines: int = 0
    """Lines that are no JSON object: cut off when a process was killed."""


def read_curves(file: Path) -> Curves:
    """Read a metrics file; a file that is not there gives no curves. Broken lines are counted and warned of."""
    curves = Curves()
    if not file.exists():
        return curves
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
            step = line.pop("step")
            split = line.pop("split", None)
        except (ValueError, KeyError, TypeError, AttributeError):
            curves.num_broken_lines += 1
            continue
        into = curves.training if split is None else curves.evaluation.setdefault(str(split), {})
        for name, value in line.items():
            if isinstance(value, int | float) and math.isfinite(value):
                into.setdefault(name, []).append((float(step), float(value)))
    if curves.num_broken_lines:
        logger.warning("%s: %d lines are no JSON object and are left out", file, curves.num_broken_lines)
    return curves


def thin(points: Sequence[tuple[float, float]], *, most: int = MAX_POINTS) -> Points:
    """At most `most` points: means of neighbours, at the mean of their steps."""
    if len(points) <= most:
        return list(points)
    size = -(-len(points) // most)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
