"""LAIP, Table VI: fine-tuning on COCO first, and the paper's figures on CUHK-PEDES (arXiv 2406.10845).

Run      python -m launch.sweep launch/sweeps/laip_table6.py --cluster NAME --at-most 8 --data.root DIR
Then     tbps results runs
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.aga_table1 import ACCUMULATED, SEEDS
from launch.sweeps.laip_table4 import BASELINE, BASELINE_COCO, LAIP, NOT_COCO

TITLE = "LAIP, Table VI"
POINTS = grid(
    "recipes/laip.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "Baseline": BASELINE,
        "Baseline+": BASELINE_COCO,
        "LAIP": Row(f"{ACCUMULATED} {NOT_COCO}", published=(72.30, 86.71, 90.46, 62.07)),
        "LAIP+": LAIP,
    },
)
