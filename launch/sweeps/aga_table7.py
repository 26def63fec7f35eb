"""AGA, Table VII: the lower bound of the masking probability on CUHK-PEDES, and the paper's figures (arXiv 2412.15106).

Run      python -m launch.sweep launch/sweeps/aga_table7.py --cluster NAME --at-most 8 --data.root DIR --start.weights FILE
Then     tbps results runs
The paper's figures are not repeated: its four rows are those of Table I, digit by digit, while its text says that 0.05 is
best. Only the row of AGA is known, from the other tables.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.aga_table1 import ACCUMULATED, AGA, SEEDS

TITLE = "AGA, Table VII"
POINTS = grid(
    "recipes/aga.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "alpha_1 -0.05": Row(f"{ACCUMULATED} --method.alpha-1 -0.05"),
        "alpha_1 0": Row(f"{ACCUMULATED} --method.alpha-1 0"),
        "alpha_1 0.05": AGA,
        "alpha_1 0.1": Row(f"{ACCUMULATED} --method.alpha-1 0.1"),
    },
)
