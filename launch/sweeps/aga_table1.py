"""AGA, Table I: which words are masked on CUHK-PEDES, and the paper's figures (arXiv 2412.15106).

Run      python -m launch.sweep launch/sweeps/aga_table1.py --cluster NAME --at-most 8 --data.root DIR --start.weights FILE
Then     tbps results runs
One GPU a point: four groups of 13 pairs, one after another. Three seeds are ours; the paper gives one figure a row, and does
not say how often "picked" masks: as many words as "random" (ours). Its figures for "Random" (76.51 90.29 94.25 69.38) are
those that RaSa's paper reports of RaSa, which augments by flips alone: not repeated beside a run with AGA's augmentation.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid

SEEDS = (42, 43, 44)
# The paper's batch of 4 GPUs, accumulated on one
ACCUMULATED = "--data.micro-batch-pairs 13"
RANDOM = f"{ACCUMULATED} --method.masking random"
NO_TEM = "--method.p-tem 0"
BASELINE = Row(f"{RANDOM} {NO_TEM} --method.weights.mlm 0", published=(76.03, 90.31, 93.73, 69.23))
AGM = Row(f"{ACCUMULATED} {NO_TEM}", published=(77.58, 91.61, 94.89, 70.50))
AGA = Row(ACCUMULATED, published=(78.36, 91.42, 94.98, 70.72))

TITLE = "AGA, Table I"
POINTS = grid(
    "recipes/aga.py",
    "cuhk-pedes",
    seeds=SEEDS,
    rows={
        "Baseline": BASELINE,
        "Picked": Row(f"{ACCUMULATED} --method.masking picked {NO_TEM}", published=(75.50, 89.24, 93.63, 69.15)),
        "Random": Row(f"{RANDOM} {NO_TEM}"),  # the paper prints RaSa's figures
        "AGM": AGM,
    },
)
