"""LAIP, Table IV: each component on CUHK-PEDES, and the paper's figures (arXiv 2406.10845).

Run      python -m launch.sweep launch/sweeps/laip_table4.py --cluster NAME --at-most 8 --data.root DIR
Then     tbps results runs
All rows but the first start from ALBEF fine-tuned on COCO (recipes/pretrain_coco.py), so `--start.weights` is not for all.
One GPU a point, as in AGA's tables. The paper gives one figure a row and no seeds; three seeds are ours.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid
from launch.sweeps.aga_table1 import ACCUMULATED, SEEDS

NOT_COCO = "--start.weights weights/albef.safetensors"
NO_TRIPLET = "--method.weights.triplet 0"
NO_MPM = "--method.weights.mpm 0"
NO_BIDIR = "--method.weights.bidir 0"
GLOBAL = f"{ACCUMULATED} {NO_TRIPLET} {NO_BIDIR} {NO_MPM}"

BASELINE = Row(f"{GLOBAL} {NOT_COCO}", published=(63.87, 81.73, 86.42, 54.41))
BASELINE_COCO = Row(GLOBAL, published=(66.59, 84.31, 88.99, 57.08))
LAIP = Row(ACCUMULATED, published=(76.72, 90.42, 93.60, 66.05))

TITLE = "LAIP, Table IV"
POINTS = grid(
    "recipes/laip.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "1: Baseline": BASELINE,
        "2: Baseline+ (COCO)": BASELINE_COCO,
        "3: +ForAtt": Row(
            f"{ACCUMULATED} {NO_TRIPLET} {NO_MPM} --method.attention forward", published=(75.05, 89.05, 92.61, 64.22)
        ),
        "4: +BackAtt": Row(
            f"{ACCUMULATED} {NO_TRIPLET} {NO_MPM} --method.attention backward", published=(75.37, 89.54, 92.82, 65.10)
        ),
        "5: +BidirAtts": Row(f"{ACCUMULATED} {NO_TRIPLET} {NO_MPM}", published=(75.52, 89.80, 93.70, 66.07)),
        "6: +MPM": Row(f"{ACCUMULATED} {NO_TRIPLET} {NO_BIDIR}", published=(75.45, 90.37, 93.73, 66.39)),
        "7: +BidirAtts+MPM": Row(f"{ACCUMULATED} {NO_TRIPLET}", published=(75.15, 90.04, 93.63, 66.02)),
        "8: LAIP": LAIP,
    },
)
