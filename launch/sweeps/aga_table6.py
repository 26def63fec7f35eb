"""AGA, Table VI: candidate words of text enrichment on CUHK-PEDES, and the paper's figures (arXiv 2412.15106).

Run      python -m launch.sweep launch/sweeps/aga_table6.py --cluster NAME --at-most 8 --data.root DIR --start.weights FILE
Then     tbps results runs
The row of AGA itself is the same runs in all of its tables.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.aga_table1 import ACCUMULATED, AGA, SEEDS

TITLE = "AGA, Table VI"
POINTS = grid(
    "recipes/aga.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "k 3": Row(f"{ACCUMULATED} --method.candidates 3", published=(78.00, 91.06, 94.73, 70.52)),
        "k 5": AGA,
        "k 10": Row(f"{ACCUMULATED} --method.candidates 10", published=(78.05, 91.26, 94.86, 70.61)),
    },
)
