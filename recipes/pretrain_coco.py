"""ALBEF fine-tuned on COCO captions with ITC + ITM: the start of LAIP (Wu et al., arXiv 2406.10845, Appendix E2).

Run      accelerate launch recipes/pretrain_coco.py coco --data.root data/COCO --start.weights weights/albef.safetensors
Then     accelerate launch recipes/laip.py cuhk-pedes --start.weights runs/pretrain_coco/coco
Paper    no figure for this model itself; fine-tuned on CUHK-PEDES with (without) it, Table VI, rank-1 / mAP:
         LAIP 76.72 / 66.05 (72.30 / 62.07); LAIP's baseline 66.59 / 57.08 (63.87 / 54.41)
Ours     not yet run on the real data set; checked with `tiny` on a CPU
Differs  LAIP says neither epochs nor batch nor rate of this stage: all are ALBEF's for COCO (configs/Retrieval_coco.yaml).
         The checkpoint is chosen on val by text to image rank-1 and mAP (ALBEF: by the mean of six recalls)
"""

from __future__ import annotations

from recipes import tiny as small
from tbps.config.data import Captioning, Data
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.methods.albef import Albef, AlbefWeights
from tbps.config.optim import Optimiser
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.config.start import Start
from tbps.recipe_command import recipe_command


def coco() -> Run:
    """566,747 pairs of 113,287 images; every image is an identity of its own, which its five captions share.

    "COCO": salesforce/ALBEF configs/Retrieval_coco.yaml.
    """
    return Run(
        recipe="pretrain_coco",
        name="coco",
        method=Albef(  # encoders: ViT-B/16 and BERT-base, as ALBEF.pth has them
            keep_word_head=True,  # ALBEF.pth has one, and LAIP starts from it
            weights=AlbefWeights(itc=1.0, itm=1.0),  # ALBEF's code: their sum
            projection=256,  # COCO: embed_dim
            temperature=0.07,  # COCO; where the learned one starts
            queue_pairs=65_536,  # COCO
            momentum=0.995,  # COCO
            alpha=0.4,  # COCO
        ),
        data=Data(
            benchmark="coco",
            root="data/COCO",
            captioning=Captioning(
                vocabulary="bert-base-uncased",  # COCO
                max_words=30,  # salesforce/ALBEF dataset/caption_dataset.py
                max_tokens=30,  # salesforce/ALBEF Retrieval.py, in evaluation; in training it cuts words only
                max_training_tokens=512,  # BERT's positions
            ),
            image_px=(384, 384),  # COCO
            augmentations=("resized-crop", "random-operations", "flip"),  # ALBEF's code: crop of 0.5 to 1, two operations
            weak_positive_probability=0.0,  # ALBEF pairs every image with its own caption
            batch_pairs=256,  # COCO: 32 on each of 8 GPUs
            group_pairs=32,  # ALBEF's loss contrasts and draws negatives inside one GPU's 32 pairs
        ),
        optim=Optimiser(
            lr=1e-5,  # COCO
            weight_decay=0.02,  # COCO
            betas=(0.9, 0.999),  # ALBEF's code: torch's
            eps=1e-8,  # ALBEF's code: torch's
        ),
        schedule=Schedule(
            epochs=5,  # COCO
            min_lr=1e-6,  # COCO
            warmup_steps=101,  # ALBEF's scheduler: warmup_lr held for iterations 0..100 of epoch 0
            warmup_lr=1e-5,  # COCO
            warmup="hold",
            every="epoch",  # ALBEF's scheduler
        ),
        start=Start(weights="weights/albef.safetensors"),  # ALBEF.pth through `tbps convert`
        loop=Loop(seed=42),  # ALBEF's scripts: 42 + rank
        evaluation=Evaluation(rerank_k=256),  # COCO: k_test
    )


def tiny() -> Run:
    """The same path at a size for two CPU cores, on a synthetic world in COCO's format."""
    return Run(
        recipe="pretrain_coco",
        name="tiny",
        method=Albef(  # from random weights: there is no word head to carry along
            vit=small.VIT,
            bert=small.bert(),
            projection=small.PROJECTION,
            queue_pairs=small.QUEUE_PAIRS,
            momentum=small.MOMENTUM,
        ),
        data=small.data("coco", root="demo/coco", weak_positive_probability=0.0),
        optim=small.OPTIM,
        schedule=small.SCHEDULE,
        loop=small.LOOP,
        evaluation=small.EVALUATION,
    )


VARIANTS = {"coco": coco, "tiny": tiny}

if __name__ == "__main__":
    recipe_command(VARIANTS, about=__doc__)
