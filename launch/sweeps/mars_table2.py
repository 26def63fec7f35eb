"""MARS, Table 2: every combination of its parts on CUHK-PEDES, and the paper's figures (arXiv 2407.04287).

Run      python -m launch.sweep launch/sweeps/mars_table2.py --cluster NAME --at-most 8 --data.root DIR --start.weights FILE
Then     tbps results runs
One GPU a point: MARS's batch of 8 is one group. The paper gives one figure a row and no seeds; three seeds are ours.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid

SEEDS = (42, 43, 44)
NO_MAE = "--method.weights.mae 0"
NO_ATTRIBUTE = "--method.weights.attribute 0"
NOT_FULL = "--method.bert.full-cross-attention False"
# RaSa's batch of 4 GPUs, accumulated on one
ACCUMULATED = "--data.micro-batch-pairs 13"

TITLE = "MARS, Table 2"
POINTS = (
    *grid(
        "recipes/rasa.py",
        "cuhk-pedes",
        seeds=SEEDS,
        rows={
            "Baseline (RaSa)": Row(ACCUMULATED, published=(76.51, 90.29, 94.25, 69.38)),
            "Baseline with 70 words": Row(
                f"{ACCUMULATED} --data.captioning.max-words 70 --data.captioning.max-tokens 70",
                published=(77.03, 90.24, 94.15, 70.03),
            ),
        },
    ),
    *grid(
        "recipes/mars.py",
        "cuhk-pedes",
        seeds=SEEDS,
        rows={
            "A1: MAE": Row(f"{NO_ATTRIBUTE} {NOT_FULL}", published=(77.08, 90.07, 94.18, 69.88)),
            "A2: AL": Row(f"{NO_MAE} {NOT_FULL}", published=(76.92, 90.24, 94.01, 70.92)),
            "A3: Full CA": Row(f"{NO_MAE} {NO_ATTRIBUTE}", published=(77.18, 89.90, 93.44, 70.48)),
            "A4: MAE, AL": Row(NOT_FULL, published=(77.63, 90.22, 94.10, 71.35)),
            "A5: MAE, Full CA": Row(NO_ATTRIBUTE, published=(77.06, 90.11, 93.92, 70.07)),
            "A6: AL, Full CA": Row(NO_MAE, published=(77.45, 90.48, 94.22, 71.46)),
            "Ours w/o shared head": Row("--method.attribute-head own", published=(77.18, 90.16, 93.89, 71.20)),
            "Ours with AL rebalanced": Row("--method.attribute-weighting frequency", published=(77.84, 90.27, 94.04, 71.19)),
            "MARS (Ours)": Row(published=(77.62, 90.63, 94.27, 71.41)),
        },
    ),
)
