"""Low-rank adapters against full fine-tuning: rank by targets, IRRA on CUHK-PEDES.

Run      python -m launch.sweep launch/sweeps/lora.py --cluster NAME --at-most 8 --data.root DIR
Then     tbps results runs
No paper reports these rows. Adapters train at ten times the learning rate of whole encoders, and alpha is
twice the rank, as is usual; both are ours. Seeds as in the other sweeps.
"""

from __future__ import annotations

from launch.sweep_points import Row, grid

SEEDS = (42, 43, 44)
RANKS = (4, 16, 64)
TARGETS = ("q,v", "q,k,v,out", "q,k,v,out,fc1,fc2")

TITLE = "Adapters and full fine-tuning"
POINTS = grid(
    "recipes/irra.py",
    "cuhk-pedes-adamw",
    seeds=SEEDS,
    rows={
        "full fine-tuning": Row(),
        **{
            f"rank {rank} on {targets}": Row(
                f"--lora.targets {targets} --lora.rank {rank} --lora.alpha {2 * rank} --optim.lr 1e-4"
            )
            for targets in TARGETS
            for rank in RANKS
        },
    },
)
