"""AGA, Table VIII: beta of the moving average over layers on CUHK-PEDES, and the paper's figures (arXiv 2412.15106).

Run      python -m launch.sweep launch/sweeps/aga_table8.py --cluster NAME --at-most 8 --data.root DIR --start.weights FILE
Then     tbps results runs
The row of AGA itself is the same runs in all of its tables.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.aga_table1 import ACCUMULATED, AGA, SEEDS

TITLE = "AGA, Table VIII"
POINTS = grid(
    "recipes/aga.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "beta 0.90": Row(f"{ACCUMULATED} --method.beta 0.9", published=(78.21, 91.34, 94.72, 70.66)),
        "beta 0.95": AGA,
        "beta 0.99": Row(f"{ACCUMULATED} --method.beta 0.99", published=(77.95, 91.47, 94.68, 70.59)),
    },
)
