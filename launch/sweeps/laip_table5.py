"""LAIP, Table V: masked phrases against masked captions on CUHK-PEDES, and the paper's figures (arXiv 2406.10845).

Run      python -m launch.sweep launch/sweeps/laip_table5.py --cluster NAME --at-most 8 --data.root DIR
Then     tbps results runs
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.aga_table1 import ACCUMULATED, SEEDS
from launch.sweeps.laip_table4 import LAIP, NO_MPM

TITLE = "LAIP, Table V"
POINTS = grid(
    "recipes/laip.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "LAIP (w/o MPM)": Row(f"{ACCUMULATED} {NO_MPM}", published=(75.21, 89.53, 93.19, 65.91)),
        "LAIP (MLM)": Row(f"{ACCUMULATED} {NO_MPM} --method.weights.mlm 1", published=(76.38, 90.27, 93.79, 65.94)),
        "LAIP (MPM)": LAIP,
    },
)
