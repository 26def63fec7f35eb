"""AGA: RaSa with attention-guided masking and text enrichment (arXiv 2412.15106).

Run      accelerate launch recipes/aga.py cuhk-pedes --data.root CUHK-PEDES --start.weights weights/albef.safetensors
Paper    Table II: CUHK-PEDES rank-1 78.36 / mAP 70.72; ICFG-PEDES 67.31 / 42.31; RSTPReid 67.40 / 52.49
Ours     not yet run on the real data sets; checked with `tiny` on a CPU. No official code is public
Differs  as recipes/mars.py; the probability of masking a word is scaled by the number of words, so that up to 20 % are
         masked (the paper: about 15 %, which --method.masked-share 0.15 gives; the reason stands in
         tbps/objectives/attention_guided_masking.py); what the paper leaves open is listed in tbps/methods/albef/aga.py
"""

from __future__ import annotations

from recipes import tiny as small
from recipes.benchmarks import on_icfg_pedes, on_rstpreid
from tbps.config.data import Captioning, Data
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.methods.aga import Aga, AgaWeights
from tbps.config.optim import Optimiser, Rule
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.config.start import Start
from tbps.recipe_command import recipe_command


def cuhk_pedes() -> Run:
    """The paper's setting (Sec. IV-B): RaSa's, 4 GPUs of 13 pairs, 30 epochs, 50 words, with stronger augmentation.

    "RaSa": what the paper does not give stands as in RaSa ("follows the basic training setting of RaSa").
    """
    return Run(
        recipe="aga",
        name="cuhk-pedes",
        method=Aga(  # encoders: ViT-B/16 (Sec. IV-B: patches of 16) and BERT-base, as ALBEF.pth has them
            weights=AgaWeights(cl=0.5, pitm=1.0, mlm=1.0, prd=0.5, mrtd=0.5),  # RaSa
            beta=0.95,  # Sec. III-B, Table VIII
            attention_temperature=0.02,  # Sec. III-B
            alpha_1=0.05,  # Sec. IV-B, Table VII
            alpha_2=0.15,  # Sec. IV-B
            p_tem=0.3,  # Table V
            candidates=5,  # Table VI: k
            mlm_probability=0.15,  # RaSa; only where words are masked at random or picked
            mrtd_probability=0.3,  # RaSa
            projection=256,  # RaSa
            temperature=0.07,  # RaSa
            queue_pairs=65_536,  # RaSa
            momentum=0.995,  # RaSa
            alpha=0.4,  # RaSa
        ),
        data=Data(
            benchmark="cuhk-pedes",
            root="data/CUHK-PEDES",
            captioning=Captioning(
                vocabulary="bert-base-uncased",  # Sec. IV-B: BERT
                max_words=50,  # RaSa
                max_tokens=50,  # Sec. IV-B
                max_training_tokens=512,  # RaSa: training cuts words only; BERT has 512 positions
            ),
            image_px=(384, 384),  # Sec. IV-B
            augmentations=("flip", "pad-crop", "erase"),  # Sec. IV-B: flip, padded crop, erasing
            weak_positive_probability=0.1,  # RaSa
            batch_pairs=52,  # Sec. IV-B: 13 on each of 4 GPUs (that 13 is one GPU's share is RaSa's reading)
            group_pairs=13,  # RaSa: contrast and negatives stay inside one GPU's pairs
        ),
        optim=Optimiser(
            lr=1e-5,  # Sec. IV-B
            rules=(
                Rule(pattern="prd_head", factor=10.0),  # RaSa: 1e-4
                Rule(pattern="mrtd_head", factor=10.0, optional=True),  # the same; none where no word is predicted
            ),
            weight_decay=0.02,  # Sec. IV-B
            betas=(0.9, 0.999),  # RaSa
            eps=1e-8,  # RaSa
        ),
        schedule=Schedule(
            epochs=30,  # Sec. IV-B
            min_lr=1e-6,  # RaSa
            warmup_steps=101,  # RaSa: warmup_lr held for iterations 0..100 of epoch 0
            warmup_lr=1e-5,  # RaSa
            warmup="hold",
            every="epoch",  # RaSa
        ),
        start=Start(weights="weights/albef.safetensors"),  # ALBEF.pth through `tbps convert`
        loop=Loop(seed=42),  # RaSa: 42 + rank
        evaluation=Evaluation(rerank_k=128),  # RaSa: k_test
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
        recipe="aga",
        name="tiny",
        method=Aga(
            vit=small.VIT,
            bert=small.bert(),
            weights=small.AGA_WEIGHTS,
            projection=small.PROJECTION,
            queue_pairs=small.QUEUE_PAIRS,
            momentum=small.MOMENTUM,
            beta=0.5,  # ours: of the attention of one text layer, 0.95 would leave a twentieth, and no word would stand out
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
