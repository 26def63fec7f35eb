"""The small twin of every recipe: the same code path on a synthetic world, seconds on two CPU cores.

`tbps data synth` writes the world; widths, steps and rates are ours, chosen for speed on a CPU.
"""

from __future__ import annotations

from tbps.config.methods import Bert, MaeDecoder, Vit
from tbps.config.run import AdamW, Benchmark, Captioning, Cosine, Data, Evaluation, Loop

IMAGE_PX = (64, 32)
VIT = Vit(width=64, depth=2, heads=2, patch_px=8, init_std=0.12)
MAE = MaeDecoder(depth=1, heads=2)
QUEUE_PAIRS = 256
MOMENTUM = 0.9  # 0.995 would take longer to follow than these runs last
PROJECTION = 64


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


OPTIM = AdamW(lr=2e-3, head_lr=2e-3)
SCHEDULE = Cosine(epochs=2, min_lr=1e-5, warmup_steps=20, warmup_lr=1e-5)
LOOP = Loop(log_steps=10, save_steps=100)
EVALUATION = Evaluation(every_epochs=1, rerank_k=16)
