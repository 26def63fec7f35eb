"""The small twin of every recipe: the same code path on a synthetic world, seconds on two CPU cores.

`tbps data synth` writes the world; widths, steps and rates are ours, chosen for speed on a CPU.
"""

from __future__ import annotations

from dataclasses import replace

from tbps.config.clip_sizes import ClipSizes, ImageTowerSizes, TextTowerSizes
from tbps.config.data import Benchmark, Captioning, Data, Pixels
from tbps.config.encoders import Bert, MaeDecoder, Vit
from tbps.config.evaluation import Evaluation
from tbps.config.loop import Loop
from tbps.config.methods.aga import AgaWeights
from tbps.config.methods.laip import LaipWeights
from tbps.config.methods.mars import MarsWeights
from tbps.config.methods.rasa import RasaWeights
from tbps.config.optim import Optimiser, Rule
from tbps.config.schedule import Schedule

IMAGE_PX = (64, 32)
VIT = Vit(width=64, depth=2, heads=2, patch_px=8, init_std=0.12)
MAE = MaeDecoder(depth=1, heads=2)
QUEUE_PAIRS = 32  # longer queues hold features that fast early training has left behind
MOMENTUM = 0.9  # 0.995 would take longer to follow than these runs last
PROJECTION = 64
# Contrast comes first: within minutes the other losses would only slow it down at the papers' weights.
RASA_WEIGHTS = RasaWeights(cl=2.0, pitm=1.0, mlm=0.1, prd=0.1, mrtd=0.1)
AGA_WEIGHTS = AgaWeights(cl=2.0, pitm=1.0, mlm=0.1, prd=0.1, mrtd=0.1)
LAIP_WEIGHTS = LaipWeights(itc=2.0, itm=1.0, triplet=0.1, bidir=0.05, mpm=0.02)  # a caption has six phrases
MARS_WEIGHTS = MarsWeights(cl=2.0, pitm=1.0, mlm=0.1, prd=0.1, mrtd=0.1, mae=0.1, attribute=0.5)


def bert(*, full_cross_attention: bool = False) -> Bert:
    """One text layer, two cross layers; ids of the vocabularies that `tbps data vocabulary` trains."""
    return Bert(
        width=64,
        layers=3,
        heads=2,
        intermediate=256,
        vocabulary_size=600,
        max_positions=96,
        fusion_layer=1,
        full_cross_attention=full_cross_attention,
        dropout=0.0,
        cls_id=2,
        mask_id=4,
        init_std=0.12,
    )


def data(benchmark: Benchmark, *, root: str, weak_positive_probability: float = 0.1) -> Data:
    """Batches of 32 in groups of 16."""
    return Data(
        benchmark=benchmark,
        root=root,
        captioning=Captioning(vocabulary="demo/vocab.txt", max_words=70, max_tokens=72, chunker="builtin"),
        image_px=IMAGE_PX,
        weak_positive_probability=weak_positive_probability,
        batch_pairs=32,
        group_pairs=16,
        workers=1,
    )


CLIP_TOWERS = ClipSizes(
    image=ImageTowerSizes(width=64, layers=2, heads=2, intermediate=256, patch_px=8),
    text=TextTowerSizes(width=64, layers=2, heads=2, intermediate=256),
    features=64,
)


def clip_data() -> Data:
    """A synthetic CUHK-PEDES in batches of 32, as CLIP's towers read it; the vocabulary is CLIP's own."""
    return replace(
        data("cuhk-pedes", root="demo/cuhk-pedes", weak_positive_probability=0.0),
        captioning=Captioning(vocabulary="clip", max_words=0, max_tokens=77, cleaning="none"),
        pixels=Pixels(interpolation="bilinear"),
        augmentations=("flip", "pad-crop", "erase"),
    )


OPTIM = Optimiser(lr=2e-3)
# RaSa's heads have a rate of their own; here it is that of the rest, which starts from random weights too.
RASA_HEADS = (Rule(pattern="prd_head", factor=1.0), Rule(pattern="mrtd_head", factor=1.0, optional=True))
RASA_OPTIM = Optimiser(lr=2e-3, rules=RASA_HEADS)
SCHEDULE = Schedule(epochs=2, min_lr=1e-5, warmup_steps=20, warmup_lr=1e-5)
LOOP = Loop(log_steps=10, save_steps=100)
RERANK_K = 4
EVALUATION = Evaluation(every_epochs=1, rerank_k=RERANK_K)
