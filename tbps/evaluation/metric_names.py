"""The names of the metrics. Without PyTorch: who lists results asks too."""

from __future__ import annotations

RANKS = (1, 5, 10)
METRICS = ("rank_1", "rank_5", "rank_10", "mAP", "mINP")
"""By name, in the order in which tables show them."""
