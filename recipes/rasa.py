"""RaSa: relation- and sensitivity-aware representation learning (Bai et al., arXiv 2305.13653).

Run      accelerate launch recipes/rasa.py cuhk-pedes --data.root CUHK-PEDES --start.weights weights/albef.safetensors
         or runs/pretrain_mals/rasa, a run of recipes/pretrain_mals.py
Paper    CUHK-PEDES rank-1 76.51 / mAP 69.38; ICFG-PEDES 65.28 / 41.29; RSTPReid 66.90 / 52.31 (as in MARS, Table 1)
Ours     not yet run on the real data sets; checked with `tiny` on a CPU and against recorded steps of the official code
Differs  as recipes/mars.py
"""

from __future__ import annotations

from recipes import tiny as small
from recipes.benchmarks import on_icfg_pedes, on_rstpreid
from tbps.config.data import Captioning, Data
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.methods.rasa import Rasa, RasaWeights
from tbps.config.optim import Optimiser, Rule
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.config.start import Start
from tbps.recipe_command import recipe_command


def cuhk_pedes() -> Run:
    """The official setting: 4 GPUs of 13 pairs, 30 epochs. "RaSa configs": Flame-Chasers/RaSa configs/PS_cuhk_pedes.yaml."""
    return Run(
        recipe="rasa",
        name="cuhk-pedes",
        method=Rasa(  # encoders: ViT-B/16 and BERT-base, as ALBEF.pth has them
            weights=RasaWeights(cl=0.5, pitm=1.0, mlm=1.0, prd=0.5, mrtd=0.5),  # RaSa configs
            mlm_probability=0.15,  # RaSa configs
            mrtd_probability=0.3,  # RaSa configs
            projection=256,  # RaSa configs: embed_dim
            temperature=0.07,  # RaSa configs; where the learned one starts
            queue_pairs=65_536,  # RaSa configs
            momentum=0.995,  # RaSa configs
            alpha=0.4,  # RaSa configs
        ),
        data=Data(
            benchmark="cuhk-pedes",
            root="data/CUHK-PEDES",
            captioning=Captioning(
                vocabulary="bert-base-uncased",  # RaSa configs
                max_words=50,  # RaSa configs
                max_tokens=50,  # RaSa's evaluation cuts at max_words tokens, [CLS] included
                max_training_tokens=512,  # RaSa's training cuts words only; BERT has 512 positions
            ),
            image_px=(384, 384),  # RaSa configs
            augmentations=("flip",),  # RaSa's code: resize and flip, nothing else
            weak_positive_probability=0.1,  # RaSa configs
            batch_pairs=52,  # RaSa configs and issue 15: 13 on each of 4 GPUs
            group_pairs=13,  # RaSa's loss contrasts and draws negatives inside one GPU's 13 pairs
        ),
        optim=Optimiser(
            lr=1e-5,  # RaSa configs
            rules=(
                Rule(pattern="prd_head", factor=10.0),  # RaSa's code: 1e-4
                Rule(pattern="mrtd_head", factor=10.0, optional=True),  # the same; none where no word is predicted
            ),
            weight_decay=0.02,  # RaSa configs
            betas=(0.9, 0.999),  # RaSa's code: torch's
            eps=1e-8,  # RaSa's code: torch's
        ),
        schedule=Schedule(
            epochs=30,  # RaSa configs
            min_lr=1e-6,  # RaSa configs
            warmup_steps=101,  # RaSa's scheduler: warmup_lr held for iterations 0..100 of epoch 0
            warmup_lr=1e-5,  # RaSa configs
            warmup="hold",
            every="epoch",  # RaSa's scheduler
        ),
        start=Start(weights="weights/albef.safetensors"),  # ALBEF.pth through `tbps convert`
        loop=Loop(seed=42),  # RaSa's scripts: 42 + rank
        evaluation=Evaluation(rerank_k=128),  # RaSa configs: k_test
    )


def icfg_pedes() -> Run:
    """As CUHK-PEDES. There is no val split: the last checkpoint is tested."""
    return on_icfg_pedes(cuhk_pedes())


def rstpreid() -> Run:
    """As CUHK-PEDES."""
    return on_rstpreid(cuhk_pedes())


def tiny() -> Run:
    """The same path at a size for two CPU cores, on a synthetic CUHK-PEDES."""
    return Run(
        recipe="rasa",
        name="tiny",
        method=Rasa(
            vit=small.VIT,
            bert=small.bert(),
            weights=small.RASA_WEIGHTS,
            projection=small.PROJECTION,
            queue_pairs=small.QUEUE_PAIRS,
            momentum=small.MOMENTUM,
        ),
        data=small.data("cuhk-pedes", root="demo/cuhk-pedes"),
        optim=small.RASA_OPTIM,
        schedule=small.SCHEDULE,
        loop=small.LOOP,
        evaluation=small.EVALUATION,
    )


VARIANTS = {"cuhk-pedes": cuhk_pedes, "icfg-pedes": icfg_pedes, "rstpreid": rstpreid, "tiny": tiny}

if __name__ == "__main__":
    recipe_command(VARIANTS, about=__doc__)
