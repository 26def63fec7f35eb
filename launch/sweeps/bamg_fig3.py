"""BAMG, Fig. 3: weights of masked graph modelling (alpha) and of masked words (beta) on CUHK-PEDES.

Run      python -m launch.sweep launch/sweeps/bamg_fig3.py --cluster NAME --at-most 8 --data.root DIR
Then     tbps results runs
The paper draws its figures and prints none but those of 1.5 and 1.0; the values of the grid are ours.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.bamg_table2 import SEEDS

ALPHAS = BETAS = (0.5, 1.0, 1.5, 2.0)
CHOSEN = (1.5, 1.0)

TITLE = "BAMG, Fig. 3"
POINTS = grid(
    "recipes/bamg.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        f"alpha {alpha}, beta {beta}": Row(
            f"--method.weights.mgm {alpha} --method.weights.mlm {beta}",
            published=(79.98, 92.31, 94.03, 68.55) if (alpha, beta) == CHOSEN else (),
        )
        for alpha in ALPHAS
        for beta in BETAS
    },
)
