"""What `benchmarks/gpu.py` can measure, and its order to the process that measures one method; no library is needed here."""

from __future__ import annotations

from dataclasses import dataclass

FIRST = ("cost", "eager", "evaluation", "loop", "plain")
"""What is measured of all methods before the rest of any."""
PARTS = (*FIRST, "same", "compiled", "trace", "rest")
"""In the order in which they are measured."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be measured; it travels as JSON."""

    name: str
    quick: bool
    """`tiny` of the recipe, few steps."""
    device: str
    pairs: tuple[int, ...]
    """Batch sizes; the middle one is measured in all precisions and beside the plain baseline."""
    parts: tuple[str, ...]
    """Of PARTS."""
    precisions: tuple[str, ...]
    known: tuple[tuple[str, ...], ...]
    """Keys (gpu_rows.py) of rows that an earlier run has measured."""
    trace: str
    """Where the Chrome trace of a step goes; empty = none is made."""
