"""BAMG, Table 2: its components on CUHK-PEDES, ICFG-PEDES and RSTPReid, and the paper's figures.

Run      python -m launch.sweep launch/sweeps/bamg_table2.py --cluster NAME --at-most 8
         each benchmark lies where its recipe looks for it (data/CUHK-PEDES, data/ICFG-PEDES, data/RSTPReid), with its maps
Then     tbps results runs
Without fusion there is no matching either, and no loss behind it: contrast alone, ranked by similarity. The paper gives one
figure a row and no seeds, and does not say by which ranking; three seeds are ours, and the figures stand beside the
re-ranked ones where there are any. Its row without any component, 53.47 on CUHK-PEDES, is doubtful: see recipes/bamg.py.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid

SEEDS = (42, 43, 44)
NO_MGM = "--method.weights.mgm 0"
NO_MLM = "--method.weights.mlm 0"
NO_FUSION = f"--method.weights.itm 0 {NO_MGM} {NO_MLM} --evaluation.rerank-k 0"
PUBLISHED = {
    "cuhk-pedes": (
        (53.47, 68.51, 77.43, 53.25),
        (76.36, 89.69, 91.10, 65.37),
        (78.52, 91.07, 93.34, 68.33),
        (79.98, 92.31, 94.03, 68.55),
    ),
    "icfg-pedes": (
        (54.96, 77.10, 88.52, 40.61),
        (68.25, 85.12, 89.23, 41.57),
        (70.17, 86.03, 89.45, 42.01),
        (71.70, 86.34, 89.71, 42.37),
    ),
    "rstpreid": (
        (52.29, 67.11, 77.13, 40.90),
        (66.72, 85.43, 89.19, 48.91),
        (68.95, 87.17, 90.73, 51.31),
        (69.73, 87.65, 93.33, 55.21),
    ),
}
ROWS = {"Baseline": NO_FUSION, "BF": f"{NO_MGM} {NO_MLM}", "BF, MLM": NO_MGM, "BF, MGM, MLM": ""}

TITLE = "BAMG, Table 2"
POINTS = tuple(
    point
    for benchmark, figures in PUBLISHED.items()
    for point in grid(
        "recipes/bamg.py",
        benchmark,
        seeds=SEEDS,
        rows={
            f"{row}, {benchmark}": Row(overrides, published=published)
            for (row, overrides), published in zip(ROWS.items(), figures, strict=True)
        },
    )
)
