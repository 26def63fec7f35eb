"""BiLMa's search: mask ratio m_p by weight beta of the masked patches, on three data sets (ICCV workshops 2023, Sec. 4.1).

Run      python -m launch.sweep launch/sweeps/bilma_grid.py --cluster NAME --at-most 8
Then     tbps results runs
The paper searched a grid for each data set and prints neither the grid nor what it found: that is left to its supplement,
A.6, which is not part of the text that we have. The grid is ours. Choose by the val split, where there is one: the best of
nine on the test split would be a choice made on it.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.bilma_table2 import SEEDS

RATIOS = (0.15, 0.3, 0.5)
BETAS = (0.5, 1.0, 2.0)

TITLE = "BiLMa, mask ratio and weight of masked patches"
POINTS = tuple(
    point
    for variant in ("cuhk-pedes", "icfg-pedes", "rstpreid")
    for point in grid(
        "recipes/bilma.py",
        variant,
        seeds=SEEDS,
        rows={
            f"{variant}: m_p {ratio}, beta {beta}": Row(f"--method.patch-mask-ratio {ratio} --method.weights.mim {beta}")
            for ratio in RATIOS
            for beta in BETAS
        },
    )
)
