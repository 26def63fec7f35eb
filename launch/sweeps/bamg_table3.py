"""BAMG, Table 3: bottleneck against plain cross-transformer on CUHK-PEDES, and the paper's figures.

Run      python -m launch.sweep launch/sweeps/bamg_table3.py --cluster NAME --at-most 8 --data.root DIR
Then     tbps results runs
Both without MGM and MLM: the paper's row of the bottleneck is Table 2's row of the fusion alone, whose rank-10 is taken from
there. It gives no rank-10 of the plain transformer, and 100 ms against 70 ms: `python benchmarks/fusion.py` measures that.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.bamg_table2 import NO_MGM, NO_MLM, SEEDS

TITLE = "BAMG, Table 3"
POINTS = grid(
    "recipes/bamg.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "Transformer": Row(f"{NO_MGM} {NO_MLM} --method.fusion cross", published=(73.93, 85.21, None, 63.19)),
        "Bottleneck Transformer": Row(f"{NO_MGM} {NO_MLM}", published=(76.36, 89.69, 91.10, 65.37)),
    },
)
