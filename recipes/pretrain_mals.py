"""Pretraining on MALS (Yang et al., APTM, arXiv 2306.02898): MARS, RaSa, ALBEF, APTM or IRRA, a variant each.

Run      accelerate launch recipes/pretrain_mals.py mars --data.root shards/mals
Then     accelerate launch recipes/mars.py cuhk-pedes --start.weights runs/pretrain_mals/mars
         and so with rasa, albef, aptm and irra: what is pretrained is the start of the recipe of that name
Paper    no figures for the pretrained models themselves; fine-tuned: recipes/mars.py (MARS++), recipes/aptm.py
Ours     not yet run on the real data set; checked with each `tiny` on a CPU, APTM also against a recorded step
Differs  - MARS: the paper does not say how it pretrained. From APTM's pretraining are epochs, rate, warm-up steps, betas and
         weight decay. Not so: the rate falls by a cosine (APTM: linearly to 0); cross-attention has the rate of the rest
         (APTM: twice); 512 pairs a step (APTM: 150 on each of 4 GPUs); flips alone; no attribute prompts, MARS's losses.
         - RaSa, ALBEF: their papers do not pretrain on MALS; as MARS, with their own losses, captions and augmentations.
         - APTM: the sentences stand for MALS's 27 attributes in the official order. Only words are masked (official: padding
         too): --method.masking official. The contrast has its whole gradient (official: divided by the number of GPUs):
         --method.itc-gradient official. bfloat16 (official: float32). Erasing hits half of the images (official: 60 %). The
         last checkpoint goes on to fine-tuning, as the official README has it.
         - IRRA: its paper does not pretrain on persons. "MLLM" (Tan et al., CVPR 2024, code WentaoTan/MLLM4Text-ReID) trains
         it so on its own pairs: without the loss of identities, of which every image is one. Its loss that masks by noise
         is left out.
"""

from __future__ import annotations

from dataclasses import replace

from recipes import albef as fine_tuned_albef
from recipes import aptm as fine_tuned_aptm
from recipes import irra as fine_tuned_irra
from recipes import mars as fine_tuned_mars
from recipes import rasa as fine_tuned_rasa
from recipes import tiny as small
from tbps.config.data import Captioning, Data, Pixels
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.methods.aptm import Aptm, AptmWeights
from tbps.config.methods.irra import IrraWeights
from tbps.config.methods.method import MethodConfig
from tbps.config.optim import Optimiser, Rule
from tbps.config.run import Run
from tbps.config.schedule import Schedule
from tbps.config.start import Start
from tbps.recipe_command import recipe_command

LOOP = Loop(seed=42, precision="bf16", save_steps=1000)  # ours; APTM's seed


def mars() -> Run:
    """As MARS fine-tunes, so that the weights fit what goes on from here."""
    return as_mars(fine_tuned_mars.cuhk_pedes())


def rasa() -> Run:
    """As RaSa fine-tunes."""
    return as_mars(fine_tuned_rasa.cuhk_pedes())


def albef() -> Run:
    """As ALBEF fine-tunes."""
    return as_mars(fine_tuned_albef.cuhk_pedes())


def as_mars(cuhk_pedes: Run) -> Run:
    """A method of ALBEF's family on 1,510,330 pairs; every image is an identity, so there are no weak positives."""
    return replace(
        cuhk_pedes,
        recipe="pretrain_mals",
        name=cuhk_pedes.recipe,
        data=replace(
            cuhk_pedes.data,
            benchmark="mals",
            root="shards/mals",
            weak_positive_probability=0.0,  # one caption an identity
            batch_pairs=512,  # ours: 8 GPUs of 64; APTM: 150 on each of 4
            group_pairs=64,  # ours: one GPU's share
            workers=4,
        ),
        optim=replace(
            cuhk_pedes.optim,
            lr=1e-4,  # APTM configs/pretrain.yaml
            rules=tuple(replace(rule, factor=1.0) for rule in cuhk_pedes.optim.rules),  # ours: 1e-4, the heads' in RaSa too
            weight_decay=0.01,  # APTM configs/pretrain.yaml
            betas=(0.9, 0.98),  # APTM's optimiser
        ),
        schedule=Schedule(
            epochs=32,  # APTM: 32
            min_lr=1e-6,  # ours; APTM's rate falls linearly
            warmup_steps=2600,  # APTM configs/pretrain.yaml
            warmup_lr=1e-6,  # ours
        ),
        loop=LOOP,
        evaluation=without_tests(cuhk_pedes.evaluation),
    )


def without_tests(evaluation: Evaluation) -> Evaluation:
    """MALS has one split: the last checkpoint counts. The rest says how others are ranked with it (`tbps evaluate --on`)."""
    return replace(evaluation, every_epochs=0, selection="last", test=False)


APTM_RULES = (
    Rule(pattern="cross_attention", factor=2.0),  # official code: what BERT's weights lack
    Rule(pattern="itm_head.1.weight", decay=True),  # official code: a gain that no name tells it to leave alone
    Rule(pattern="position_bias", decay=False),  # official code: the name has "bias" in it
)
APTM_ATTRIBUTE = 0.8 / 3
"""Official: 0.8 times the mean of the three losses of attributes."""


def aptm() -> Run:
    """On pairs and attributes, 4 GPUs of 150. "Official": Shuyu-XJTU/APTM configs/Retrieval_gene.yaml."""
    return Run(
        recipe="pretrain_mals",
        name="aptm",
        method=Aptm(  # encoders: Swin-B with windows of 8, and BERT-base
            weights=AptmWeights(
                itc=1.0,  # official code
                itm=1.0,
                mlm=1.0,
                reworded_itc=0.0,  # captions are reworded in fine-tuning only
                reworded_itm=0.0,
                attribute_itc=APTM_ATTRIBUTE,
                attribute_itm=APTM_ATTRIBUTE,
                attribute_mlm=APTM_ATTRIBUTE,
            ),
            projection=256,  # official: embed_dim
            temperature=0.07,  # official; where the learned one starts
            mlm_share=0.25,  # official: mask_prob
            most_masked=10,  # official: max_masks
            label_smoothing=0.4,  # official
            prompts_matched=5,  # official code
        ),
        data=Data(
            benchmark="mals",
            root="shards/mals",
            captioning=Captioning(
                vocabulary="bert-base-uncased",  # official
                max_words=56,  # official: max_words
                max_tokens=56,  # official: max_tokens
            ),
            image_px=(384, 128),  # official
            pixels=Pixels(
                mean=(0.4416847, 0.41812873, 0.4237452),  # official code: MALS's own
                std=(0.3088255, 0.29743394, 0.301009),
                interpolation="bicubic",  # official code
                erase=(0.0, 0.0, 0.0),  # official code: the mean
            ),
            augmentations=("random-operations", "flip", "erase"),  # official code
            batch_pairs=600,  # official: 150 on each of 4 GPUs
            group_pairs=150,  # official: negatives, words and prompts are of one GPU's pairs
            workers=4,
        ),
        optim=Optimiser(
            lr=1e-4,  # official
            rules=APTM_RULES,
            weight_decay=0.01,  # official
            betas=(0.9, 0.98),  # official code
            eps=1e-8,  # official code
        ),
        schedule=Schedule(
            epochs=32,  # official
            curve="linear",  # official
            min_lr=0.0,  # official code
            warmup_steps=2600,  # official
            warmup_share=0.0,  # official code
        ),
        start=Start(vit="weights/swin_base_patch4_window7_224_22k.pth", bert="bert-base-uncased"),  # official
        loop=LOOP,
        evaluation=without_tests(fine_tuned_aptm.cuhk_pedes().evaluation),
    )


def irra() -> Run:
    """As IRRA fine-tunes in bfloat16 (recipes/irra.py says why), without its classes: every image would be one."""
    fine_tuned = fine_tuned_irra.cuhk_pedes_adamw()
    return replace(
        fine_tuned,
        recipe="pretrain_mals",
        name="irra",
        method=with_weights(fine_tuned.method, IrraWeights(sdm=1.0, identity=0.0, mlm=1.0)),  # MLLM, run.sh
        data=replace(
            fine_tuned.data,
            benchmark="mals",
            root="shards/mals",
            batch_pairs=512,  # MLLM, run.sh
            workers=4,
        ),
        optim=replace(fine_tuned.optim, rules=tuple(rule for rule in fine_tuned_irra.RULES if rule.pattern != "classifier")),
        schedule=replace(fine_tuned.schedule, epochs=30),  # MLLM, run.sh; rate and warm-up are IRRA's there too
        loop=replace(LOOP, seed=1),  # MLLM, train.py: 1 + rank
        evaluation=without_tests(fine_tuned.evaluation),
    )


def tiny() -> Run:
    """MARS by the same path at a size for two CPU cores, on synthetic MALS shards."""
    return replace(at_small_size(fine_tuned_mars.tiny()), name="tiny")


def tiny_rasa() -> Run:
    """RaSa in small."""
    return at_small_size(fine_tuned_rasa.tiny())


def tiny_albef() -> Run:
    """ALBEF in small."""
    return at_small_size(fine_tuned_albef.tiny())


def tiny_aptm() -> Run:
    """APTM in small, from random weights."""
    run = at_small_size(fine_tuned_aptm.tiny())
    weights = AptmWeights(
        itc=2.0,
        itm=1.0,
        mlm=0.1,
        reworded_itc=0.0,
        reworded_itm=0.0,
        attribute_itc=APTM_ATTRIBUTE,
        attribute_itm=0.1,
        attribute_mlm=0.05,
    )
    return replace(
        run,
        method=with_weights(run.method, weights),
        optim=replace(run.optim, rules=APTM_RULES),
        schedule=replace(small.SCHEDULE, curve="linear"),
    )


def tiny_irra() -> Run:
    """IRRA in small. From random weights, similarities of one caption an image teach slowly."""
    run = at_small_size(fine_tuned_irra.tiny())
    return replace(run, method=with_weights(run.method, IrraWeights(sdm=1.0, identity=0.0, mlm=0.5)))


def with_weights(method: MethodConfig, weights: AptmWeights | IrraWeights) -> MethodConfig:
    """The same method with other weights of its losses."""
    return replace(method, weights=weights)  # type: ignore[call-arg]


def at_small_size(fine_tuned: Run) -> Run:
    """The small twin of a method's fine-tuning, on synthetic MALS shards."""
    data = replace(fine_tuned.data, benchmark="mals", root="demo/mals-shards", weak_positive_probability=0.0)
    evaluation = without_tests(fine_tuned.evaluation)
    return replace(fine_tuned, recipe="pretrain_mals", name=f"tiny-{fine_tuned.recipe}", data=data, evaluation=evaluation)


VARIANTS = {
    "mars": mars,
    "rasa": rasa,
    "albef": albef,
    "aptm": aptm,
    "irra": irra,
    "tiny": tiny,
    "tiny-rasa": tiny_rasa,
    "tiny-albef": tiny_albef,
    "tiny-aptm": tiny_aptm,
    "tiny-irra": tiny_irra,
}

if __name__ == "__main__":
    recipe_command(VARIANTS, about=__doc__)
