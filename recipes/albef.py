"""ALBEF fine-tuned for retrieval: align before fuse (Li et al., arXiv 2107.07651).

Run      accelerate launch recipes/albef.py cuhk-pedes --data.root CUHK-PEDES --start.weights weights/albef.safetensors
         or runs/pretrain_mals/albef, a run of recipes/pretrain_mals.py
Paper    none on these data sets; as reported by MARS, Table 1: CUHK-PEDES rank-1 60.28 / mAP 56.67; ICFG-PEDES 34.46 /
         19.62; RSTPReid 50.10 / 41.73
Ours     not yet run on the real data sets; checked with `tiny` on a CPU and against recorded steps of the official code
Differs  the official code trains Flickr30k and COCO; data, words and negatives here are RaSa's, the method is ALBEF's
"""

from __future__ import annotations

from recipes import tiny as small
from recipes.benchmarks import on_icfg_pedes, on_rstpreid
from tbps.config.data import Captioning, Data
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.methods.albef import Albef, AlbefWeights
from tbps.config.optim import Optimiser
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.config.start import Start
from tbps.recipe_command import recipe_command


def cuhk_pedes() -> Run:
    """ALBEF's Flickr30k setting on pedestrian data, with RaSa's captions.

    "flickr": salesforce/ALBEF configs/Retrieval_flickr.yaml; "RaSa": Flame-Chasers/RaSa configs/PS_cuhk_pedes.yaml.
    """
    return Run(
        recipe="albef",
        name="cuhk-pedes",
        method=Albef(  # encoders: ViT-B/16 and BERT-base, as ALBEF.pth has them
            weights=AlbefWeights(itc=1.0, itm=1.0),  # ALBEF's code: their sum
            projection=256,  # flickr: embed_dim
            temperature=0.07,  # flickr; where the learned one starts
            queue_pairs=65_536,  # flickr
            momentum=0.995,  # flickr
            alpha=0.4,  # flickr
        ),
        data=Data(
            benchmark="cuhk-pedes",
            root="data/CUHK-PEDES",
            captioning=Captioning(
                vocabulary="bert-base-uncased",  # flickr
                max_words=50,  # RaSa: captions of persons are longer than flickr's 30 words
                max_tokens=50,  # RaSa: evaluation cuts at max_words tokens, [CLS] included
                max_training_tokens=512,  # ALBEF's training cuts words only; BERT has 512 positions
            ),
            image_px=(384, 384),  # flickr
            augmentations=("resized-crop", "random-operations", "flip"),  # ALBEF's code: crop of 0.5 to 1, two operations
            weak_positive_probability=0.0,  # ALBEF pairs every image with its own caption
            batch_pairs=256,  # flickr: 32 on each of 8 GPUs
            group_pairs=32,  # ALBEF's loss contrasts and draws negatives inside one GPU's 32 pairs
        ),
        optim=Optimiser(
            lr=1e-5,  # flickr
            weight_decay=0.02,  # flickr
            betas=(0.9, 0.999),  # ALBEF's code: torch's
            eps=1e-8,  # ALBEF's code: torch's
        ),
        schedule=Schedule(
            epochs=10,  # flickr
            min_lr=1e-6,  # flickr
            warmup_steps=101,  # ALBEF's scheduler: warmup_lr held for iterations 0..100 of epoch 0
            warmup_lr=1e-5,  # flickr
            warmup="hold",
            every="epoch",  # ALBEF's scheduler
        ),
        start=Start(weights="weights/albef.safetensors"),  # ALBEF.pth through `tbps convert`
        loop=Loop(seed=42),  # ALBEF's scripts: 42 + rank
        evaluation=Evaluation(rerank_k=128),  # flickr: k_test
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
        recipe="albef",
        name="tiny",
        method=Albef(
            vit=small.VIT,
            bert=small.bert(),
            projection=small.PROJECTION,
            queue_pairs=small.QUEUE_PAIRS,
            momentum=small.MOMENTUM,
        ),
        data=small.data("cuhk-pedes", root="demo/cuhk-pedes", weak_positive_probability=0.0),
        optim=small.OPTIM,
        schedule=small.SCHEDULE,
        loop=small.LOOP,
        evaluation=small.EVALUATION,
    )


VARIANTS = {"cuhk-pedes": cuhk_pedes, "icfg-pedes": icfg_pedes, "rstpreid": rstpreid, "tiny": tiny}

if __name__ == "__main__":
    recipe_command(VARIANTS, about=__doc__)
