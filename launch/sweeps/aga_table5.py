"""AGA, Table V: how often a caption is enriched on CUHK-PEDES, and the paper's figures (arXiv 2412.15106).

Run      python -m launch.sweep launch/sweeps/aga_table5.py --cluster NAME --at-most 8 --data.root DIR --start.weights FILE
Then     tbps results runs
The row of AGA itself is the same runs in all of its tables.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.aga_table1 import ACCUMULATED, AGA, SEEDS

TITLE = "AGA, Table V"
POINTS = grid(
    "recipes/aga.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "p_tem 0.1": Row(f"{ACCUMULATED} --method.p-tem 0.1", published=(78.23, 91.14, 94.83, 70.65)),
        "p_tem 0.2": Row(f"{ACCUMULATED} --method.p-tem 0.2", published=(78.39, 91.27, 94.72, 70.71)),
        "p_tem 0.3": AGA,
        "p_tem 0.4": Row(f"{ACCUMULATED} --method.p-tem 0.4", published=(78.11, 91.48, 94.76, 70.63)),
    },
)
