"""MARS pretrained on MALS: the start of MARS++ (Ergasti et al., Table 1.B; MALS: Yang et al., APTM, arXiv 2306.02898).

Run      accelerate launch recipes/pretrain_mals.py mals --data.root shards/mals --start.weights weights/albef.safetensors
Then     accelerate launch recipes/mars.py cuhk-pedes --start.weights runs/pretrain_mals/mals
Paper    no figure for the pretrained model itself; fine-tuned: see recipes/mars.py, MARS++
Ours     not yet run on the real data set; checked with `tiny` on a CPU
Differs  the MARS paper does not say how it pretrained. From APTM's pretraining are epochs, rate, warm-up steps, betas and
         weight decay. Not so: the rate falls by a cosine (APTM: linearly to 0); cross-attention has the rate of the rest
         (APTM: twice); 512 pairs a step (APTM: 150 on each of 4 GPUs); flips alone; no attribute prompts, MARS's losses
"""

from __future__ import annotations

from dataclasses import replace

from recipes import tiny as small
from recipes.mars import cuhk_pedes as mars_cuhk_pedes
from recipes.mars import tiny as mars_tiny
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.optim import AdamW
from tbps.config.recipe_command import recipe_command
from tbps.config.run import Run
from tbps.config.schedule import Cosine


def mals() -> Run:
    """1,510,330 pairs; every image is an identity of its own, so there are no weak positives."""
    base = mars_cuhk_pedes()
    return replace(
        base,
        recipe="pretrain_mals",
        name="mals",
        data=replace(
            base.data,
            benchmark="mals",
            root="shards/mals",
            weak_positive_probability=0.0,  # one caption an identity
            batch_pairs=512,  # ours: 8 GPUs of 64; APTM: 150 on each of 4
            group_pairs=64,  # ours: one GPU's share
            workers=4,
        ),
        optim=AdamW(
            lr=1e-4,  # APTM configs/pretrain.yaml
            head_lr=1e-4,
            weight_decay=0.01,  # APTM configs/pretrain.yaml
            betas=(0.9, 0.98),  # APTM's optimiser
        ),
        schedule=Cosine(
            epochs=32,  # APTM: 32
            min_lr=1e-6,  # ours; APTM's rate falls linearly
            warmup_steps=2600,  # APTM configs/pretrain.yaml
            warmup_lr=1e-6,  # ours
        ),
        loop=Loop(precision="bf16", save_steps=1000),
        evaluation=Evaluation(every_epochs=0, selection="last", test=False),  # MALS has one split
    )


def tiny() -> Run:
    """The same path at a size for two CPU cores, on synthetic MALS shards."""
    base = mars_tiny()
    return replace(
        base,
        recipe="pretrain_mals",
        data=small.data("mals", root="demo/mals-shards", weak_positive_probability=0.0),
        evaluation=Evaluation(every_epochs=0, rerank_k=small.RERANK_K, selection="last", test=False),
    )


VARIANTS = {"mals": mals, "tiny": tiny}

if __name__ == "__main__":
    recipe_command(VARIANTS, about=__doc__)
