"""CLIP fine-tuned for text-based person search: the direct baseline (Radford et al., arXiv 2103.00020).

Run      accelerate launch recipes/clip.py cuhk-pedes --data.root CUHK-PEDES
         starts from OpenAI's CLIP by open_clip's name; from a file: --start.clip ViT-B-16.pt
Paper    none on these data sets; IRRA's baseline "CLIP-ViT-B/16" with ITC, as MARS, Table 1 repeats it: CUHK-PEDES rank-1
         68.19 / mAP 61.12; ICFG-PEDES 56.74 / 31.84; RSTPReid 54.05 / 43.41
Ours     not yet run on the real data sets; checked with `tiny` on a CPU and against recorded weights and losses
Differs  - IRRA's paper does not list its baseline's settings; they are taken to be IRRA's own (official code:
         anosorae/IRRA), which trains half-precision weights by Adam with eps = 1e-3. No float32 run repeats that; here it is
         AdamW with eps = 1e-8, in bfloat16 autocast.
         - The logit scale is learned, as in CLIP (IRRA: a constant 50).
         - TBPS-CLIP (arXiv 2308.10045) trains 5 epochs of 320 pairs at 1e-4, 224 x 224 pixels, by N-ITC and R-ITC:
         --method.positives identity --method.soft-targets 0.5 --method.weights.ritc 1 are its losses.
"""

from __future__ import annotations

from dataclasses import replace

from recipes import tiny as small
from recipes.benchmarks import on_icfg_pedes, on_rstpreid
from tbps.config.clip_sizes import ClipSizes
from tbps.config.data import Captioning, Data, Pixels
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.methods.clip import Clip, ClipWeights
from tbps.config.optim import Optimiser, Rule
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.config.start import Start
from tbps.recipe_command import recipe_command

NO_DECAY = (Rule(pattern="logit_scale", decay=False),)  # TBPS-CLIP, open_clip: nothing of less than two dimensions decays


def cuhk_pedes() -> Run:
    """IRRA's setting with CLIP's loss. "IRRA": anosorae/IRRA, run_irra.sh and utils/options.py; "TBPS-CLIP": its code."""
    return Run(
        recipe="clip",
        name="cuhk-pedes",
        method=Clip(
            towers=ClipSizes(  # CLIP ViT-B/16; the width of its features is 512
                quick_gelu=True,  # OpenAI's weights
                position_resize="bilinear",  # IRRA's code: the 14 x 14 table resized to 24 x 8
            ),
            weights=ClipWeights(itc=1.0, ritc=0.0),  # IRRA, ablation: the baseline has CLIP's own loss
            logit_scale=1 / 0.07,  # CLIP; OpenAI's weights bring their own, 100
            positives="pair",  # CLIP
            soft_targets=0.0,  # CLIP
        ),
        data=Data(
            benchmark="cuhk-pedes",
            root="data/CUHK-PEDES",
            captioning=Captioning(
                vocabulary="clip",
                max_words=0,  # IRRA: words are not counted
                max_tokens=77,  # IRRA: text_length
                cleaning="none",  # IRRA: CLIP's tokeniser lower-cases and knows punctuation
            ),
            image_px=(384, 128),  # IRRA
            pixels=Pixels(
                mean=(0.48145466, 0.4578275, 0.40821073),  # CLIP
                std=(0.26862954, 0.26130258, 0.27577711),  # CLIP
                interpolation="bilinear",  # IRRA's code: torchvision's default
                erase=(0.48145466, 0.4578275, 0.40821073),  # IRRA's code: the mean, written after normalisation
            ),
            augmentations=("flip", "pad-crop", "erase"),  # IRRA: --img_aug
            batch_pairs=64,  # IRRA; TBPS-CLIP: 80 on each of 4 GPUs
            group_pairs=2,  # all 64 contrast with each other; a process may have any even number of them
        ),
        optim=Optimiser(
            kind="adamw",  # TBPS-CLIP
            lr=1e-5,  # IRRA; TBPS-CLIP: 1e-4 at 320 pairs
            rules=NO_DECAY,
            weight_decay=0.02,  # TBPS-CLIP
            decay_vectors=False,  # TBPS-CLIP
            betas=(0.9, 0.98),  # TBPS-CLIP; CLIP has 0.98 for vision transformers
            eps=1e-8,  # torch's; CLIP has 1e-6 for vision transformers
        ),
        schedule=Schedule(
            epochs=60,  # IRRA; TBPS-CLIP: 5
            min_lr=0.0,  # IRRA's code
            warmup_epochs=5,  # IRRA
            warmup_share=0.1,  # IRRA: warmup_factor
            every="epoch",  # IRRA's code
        ),
        start=Start(clip="ViT-B-16-quickgelu:openai"),
        loop=Loop(seed=1, precision="bf16"),  # IRRA's code: 1 + rank; bfloat16 is ours, TBPS-CLIP has float16 autocast
        evaluation=Evaluation(rerank_k=0),  # ranked by similarity alone
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
        recipe="clip",
        name="tiny",
        method=Clip(towers=small.CLIP_TOWERS),
        data=small.clip_data(),
        optim=replace(small.OPTIM, rules=NO_DECAY),
        schedule=small.SCHEDULE,
        loop=small.LOOP,
        evaluation=replace(small.EVALUATION, rerank_k=0),
    )


VARIANTS = {"cuhk-pedes": cuhk_pedes, "icfg-pedes": icfg_pedes, "rstpreid": rstpreid, "tiny": tiny}

if __name__ == "__main__":
    recipe_command(VARIANTS, about=__doc__)
