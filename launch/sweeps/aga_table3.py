"""AGA, Table III: each component on CUHK-PEDES, and the paper's figures (arXiv 2412.15106).

Run      python -m launch.sweep launch/sweeps/aga_table3.py --cluster NAME --at-most 8 --data.root DIR --start.weights FILE
Then     tbps results runs
The text measures AGM and TEM against Table I's "Random" (76.51, RaSa's published figure), not against the baseline printed
here: so TEM alone keeps MLM, with random masks.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.aga_table1 import AGA, AGM, BASELINE, RANDOM, SEEDS

TITLE = "AGA, Table III"
POINTS = grid(
    "recipes/aga.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "Baseline": BASELINE,
        "AGM": AGM,
        "TEM": Row(RANDOM, published=(76.87, 90.69, 94.57, 69.40)),
        "AGM+TEM (AGA)": AGA,
    },
)
