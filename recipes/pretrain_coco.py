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

from dataclasses import replace

from recipes import tiny as small
from recipes.albef import cuhk_pedes as albef_cuhk_pedes
from recipes.albef import tiny as albef_tiny
from tbps.config.evaluation import Evaluation
from tbps.config.methods.albef import Albef
from tbps.config.recipe_command import recipe_command
from tbps.config.run import Run


def coco() -> Run:
    """566,747 pairs of 113,287 images; every image is an identity of its own, which its five captions share."""
    base = albef_cuhk_pedes()  # method, rates, image size and augmentation are the same for COCO
    return replace(
        base,
        recipe="pretrain_coco",
        name="coco",
        method=Albef(keep_word_head=True),  # ALBEF.pth has one, and LAIP starts from it
        data=replace(
            base.data,
            benchmark="coco",
            root="data/COCO",
            captioning=replace(
                base.data.captioning,
                max_words=30,  # salesforce/ALBEF dataset/caption_dataset.py
                max_tokens=30,  # salesforce/ALBEF Retrieval.py, in evaluation; in training it cuts words only
            ),
            batch_pairs=256,  # configs/Retrieval_coco.yaml: 32 on each of 8 GPUs
            group_pairs=32,
        ),
        schedule=replace(base.schedule, epochs=5),  # configs/Retrieval_coco.yaml
        evaluation=Evaluation(rerank_k=256),  # configs/Retrieval_coco.yaml: k_test
    )


def tiny() -> Run:
    """The same path at a size for two CPU cores, on a synthetic world in COCO's format."""
    return replace(
        albef_tiny(),
        recipe="pretrain_coco",  # from random weights: there is no word head to carry along
        data=small.data("coco", root="demo/coco", weak_positive_probability=0.0),
    )


VARIANTS = {"coco": coco, "tiny": tiny}

if __name__ == "__main__":
    recipe_command(VARIANTS, about=__doc__)
