"""MARS, Table 4: weights of the attribute and the MAE loss on CUHK-PEDES (arXiv 2407.04287).

Run      python -m launch.sweep launch/sweeps/mars_table4.py --cluster NAME --at-most 8 --data.root DIR --start.weights FILE
Then     tbps results runs
The last row is MARS itself, the same runs as in Table 2.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.mars_table2 import SEEDS

TITLE = "MARS, Table 4"
POINTS = grid(
    "recipes/mars.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "attribute loss x 1": Row("--method.weights.attribute 1", published=(77.25, 90.28, 93.97, 71.22)),
        "attribute loss x 3": Row("--method.weights.attribute 3", published=(77.15, 90.29, 94.15, 71.33)),
        "MAE loss x 2": Row("--method.weights.mae 2", published=(77.59, 90.59, 94.13, 71.33)),
        "MAE loss x 3": Row("--method.weights.mae 3", published=(77.27, 90.44, 94.00, 71.07)),
        "MARS: attribute x 2, MAE x 1": Row(published=(77.62, 90.63, 94.27, 71.41)),
    },
)
