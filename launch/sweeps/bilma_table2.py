"""BiLMa, Table 2: each of its two local losses on three data sets, and the paper's figures (ICCV workshops 2023).

Run      python -m launch.sweep launch/sweeps/bilma_table2.py --cluster NAME --at-most 8
Then     tbps results runs
The data sets lie in data/CUHK-PEDES, data/ICFG-PEDES and data/RSTPReid, with parsing maps. What the losses add is small: on
CUHK-PEDES 1.02 rank-1 in all. The paper gives one figure a row and no seeds; three seeds are ours. It searched mask ratio
and weight of the masked patches for each data set and does not print what it found: launch/sweeps/bilma_grid.py searches.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid

SEEDS = (42, 43, 44)
NO_MLM, NO_MIM = "--method.weights.mlm 0", "--method.weights.mim 0"
ROWS = {
    "SDM and ID": f"{NO_MLM} {NO_MIM}",
    "MLM": NO_MIM,
    "SemMIM": NO_MLM,
    "MLM, SemMIM (BiLMa)": "",
}
# rank-1, rank-5, rank-10, mAP of each row, in their order
FIGURES = {
    "cuhk-pedes": (
        (73.01, 88.92, 93.58, 65.62),
        (73.16, 89.52, 93.63, 66.00),
        (73.55, 89.41, 93.54, 66.28),
        (74.03, 89.59, 93.62, 66.57),
    ),
    "icfg-pedes": (
        (63.09, 80.00, 85.62, 37.99),
        (63.60, 80.29, 85.70, 38.12),
        (63.08, 80.11, 85.63, 37.97),
        (63.83, 80.15, 85.74, 38.26),
    ),
    "rstpreid": (
        (59.50, 80.55, 88.35, 47.06),
        (59.05, 80.35, 87.95, 46.29),
        (59.40, 80.70, 87.35, 46.05),
        (61.20, 81.50, 88.80, 48.51),
    ),
}

TITLE = "BiLMa, Table 2"
POINTS = tuple(
    point
    for variant, figures in FIGURES.items()
    for point in grid(
        "recipes/bilma.py",
        variant,
        seeds=SEEDS,
        rows={
            f"{variant}: {name}": Row(overrides, published=figure)
            for (name, overrides), figure in zip(ROWS.items(), figures, strict=True)
        },
    )
)
