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

from recipes import tiny as small
from tbps.config.data import Captioning, Data
from tbps.config.encoders import MaeDecoder
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.methods.mars import Mars, MarsWeights
from tbps.config.optim import Optimiser, Rule
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.config.start import Start
from tbps.recipe_command import recipe_command


def mals() -> Run:
    """1,510,330 pairs; every image is an identity of its own, so there are no weak positives.

    "MARS": as fine-tuned by MARS, so that the weights fit what goes on from here.
    """
    return Run(
        recipe="pretrain_mals",
        name="mals",
        method=Mars(  # encoders: ViT-B/16 and BERT-base, as ALBEF.pth has them; all layers see the image (MARS)
            weights=MarsWeights(cl=0.5, pitm=1.0, mlm=1.0, prd=0.5, mrtd=0.5, mae=1.0, attribute=2.0),  # MARS, Sec. 4.1
            mae=MaeDecoder(
                depth=4,  # MARS, Sec. 3.1
                heads=8,  # MARS, official code
                mask_ratio=0.75,  # MARS, Sec. 4.1
            ),
            mlm_probability=0.15,  # MARS, Sec. 4.1
            mrtd_probability=0.3,  # MARS, Sec. 4.1
            projection=256,  # MARS, official configs
            temperature=0.07,  # MARS, Sec. 4.1; where the learned one starts
            queue_pairs=65_536,  # MARS, Sec. 4.1
            momentum=0.995,  # MARS, Sec. 4.1
            alpha=0.4,  # MARS, official configs
        ),
        data=Data(
            benchmark="mals",
            root="shards/mals",
            captioning=Captioning(
                vocabulary="bert-base-uncased",  # MARS
                max_words=70,  # MARS, Sec. 4.1
                max_tokens=70,  # MARS
                max_training_tokens=512,  # MARS: training cuts words only; BERT has 512 positions
            ),
            image_px=(384, 384),  # MARS, Sec. 4.1
            augmentations=("flip",),  # MARS, Sec. 4.1
            weak_positive_probability=0.0,  # one caption an identity
            batch_pairs=512,  # ours: 8 GPUs of 64; APTM: 150 on each of 4
            group_pairs=64,  # ours: one GPU's share
            workers=4,
        ),
        optim=Optimiser(
            lr=1e-4,  # APTM configs/pretrain.yaml
            rules=(
                Rule(pattern="prd_head", factor=1.0),  # ours: 1e-4, which they have in MARS too
                Rule(pattern="mrtd_head", factor=1.0, optional=True),  # the same; none where no word is predicted
            ),
            weight_decay=0.01,  # APTM configs/pretrain.yaml
            betas=(0.9, 0.98),  # APTM's optimiser
            eps=1e-8,  # torch's
        ),
        schedule=Schedule(
            epochs=32,  # APTM: 32
            min_lr=1e-6,  # ours; APTM's rate falls linearly
            warmup_steps=2600,  # APTM configs/pretrain.yaml
            warmup_lr=1e-6,  # ours
        ),
        start=Start(weights="weights/albef.safetensors"),  # ALBEF.pth through `tbps convert`, as MARS
        loop=Loop(seed=42, precision="bf16", save_steps=1000),  # ours
        evaluation=Evaluation(every_epochs=0, selection="last", test=False),  # MALS has one split
    )


def tiny() -> Run:
    """The same path at a size for two CPU cores, on synthetic MALS shards."""
    return Run(
        recipe="pretrain_mals",
        name="tiny",
        method=Mars(
            vit=small.VIT,
            bert=small.bert(full_cross_attention=True),
            mae=small.MAE,
            weights=small.MARS_WEIGHTS,
            projection=small.PROJECTION,
            queue_pairs=small.QUEUE_PAIRS,
            momentum=small.MOMENTUM,
        ),
        data=small.data("mals", root="demo/mals-shards", weak_positive_probability=0.0),
        optim=small.RASA_OPTIM,
        schedule=small.SCHEDULE,
        loop=small.LOOP,
        evaluation=Evaluation(every_epochs=0, rerank_k=small.RERANK_K, selection="last", test=False),
    )


VARIANTS = {"mals": mals, "tiny": tiny}

if __name__ == "__main__":
    recipe_command(VARIANTS, about=__doc__)
