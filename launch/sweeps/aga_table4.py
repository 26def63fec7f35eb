"""AGA, Table IV: how the layers' class attention is aggregated on CUHK-PEDES, and the paper's figures (arXiv 2412.15106).

Run      python -m launch.sweep launch/sweeps/aga_table4.py --cluster NAME --at-most 8 --data.root DIR --start.weights FILE
Then     tbps results runs
The row of AGA itself is the same runs in all of its tables.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.aga_table1 import ACCUMULATED, AGA, SEEDS

TITLE = "AGA, Table IV"
POINTS = grid(
    "recipes/aga.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "Mean": Row(f"{ACCUMULATED} --method.aggregation mean", published=(78.18, 91.39, 94.80, 70.68)),
        "Last": Row(f"{ACCUMULATED} --method.aggregation last", published=(78.08, 91.40, 94.80, 70.75)),
        "Ema": AGA,
    },
)
