"""ALBEF fine-tuned for retrieval: align before fuse (Li et al., arXiv 2107.07651).

Run      accelerate launch recipes/albef.py cuhk-pedes --data.root CUHK-PEDES --start.weights weights/albef.safetensors
Paper    none on these data sets; as reported by MARS, Table 1: CUHK-PEDES rank-1 60.28 / mAP 56.67; ICFG-PEDES 34.46 /
         19.62; RSTPReid 50.10 / 41.73
Ours     not yet run on the real data sets; checked with `tiny` on a CPU and against recorded steps of the official code
Differs  the official code trains Flickr30k and COCO; data, words and negatives here are RaSa's, the method is ALBEF's
"""

from __future__ import annotations

from dataclasses import replace

from recipes import tiny as small
from recipes.benchmarks import on_icfg_pedes, on_rstpreid
from recipes.rasa import cuhk_pedes as rasa_cuhk_pedes
from tbps.config.methods.albef import Albef
from tbps.config.recipe_command import recipe_command
from tbps.config.run import Run


def cuhk_pedes() -> Run:
    """ALBEF's Flickr30k setting (configs/Retrieval_flickr.yaml) on pedestrian data."""
    base = rasa_cuhk_pedes()
    return replace(
        base,
        recipe="albef",
        method=Albef(),
        data=replace(
            base.data,
            weak_positive_probability=0.0,  # ALBEF pairs every image with its own caption
            augmentation="randaugment",  # resized crop (0.5 to 1), flip, two random operations
            batch_pairs=256,  # configs/Retrieval_flickr.yaml: 32 on each of 8 GPUs
            group_pairs=32,
        ),
        schedule=replace(base.schedule, epochs=10),  # configs/Retrieval_flickr.yaml
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
