"""A small IRRA with random weights, and batches for it, made without the data pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tbps.config.clip_sizes import ClipSizes, ImageTowerSizes, TextTowerSizes
from tbps.config.methods.irra import Irra
from tbps.data.batch import Batch, Draws
from tbps.methods.registry import build_method
from tbps.text.token_batch import Captions

IMAGE_PX = (32, 16)
TOWERS = ClipSizes(
    image=ImageTowerSizes(width=24, layers=2, heads=2, intermediate=96, patch_px=8),
    text=TextTowerSizes(width=16, layers=2, heads=2, intermediate=64, vocabulary_size=60, max_positions=20),
    features=12,
)
IRRA = Irra(towers=TOWERS, cross_layers=2, cross_heads=2)
IDENTITIES = (2, 0, 2, 1, 0, 3, 3, 4)
LENGTHS = (5, 12, 3, 20, 7, 9, 4, 16)
NUM_IDENTITIES = 5


def build(config: Irra = IRRA) -> Any:
    """The same method at every call, in training mode; every parameter is moved by noise."""
    torch.manual_seed(0)
    method = build_method(config, image_px=IMAGE_PX, num_identities=NUM_IDENTITIES)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method.train()


def captions(lengths: Sequence[int] = LENGTHS, *, size: int = 60) -> Captions:
    """Start token, words, end token, zeros."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, size - 3, (len(lengths), max(lengths)), generator=generator)
    ids[:, 0] = size - 2
    for row, length in enumerate(lengths):
        ids[row, length - 1] = size - 1
        ids[row, length:] = 0
    return Captions(token_ids_BL=ids, lengths=tuple(lengths), chunk_id_BL=torch.zeros_like(ids))


def step(pairs: slice = slice(None)) -> tuple[Batch, Draws]:
    """The pairs of a batch of eight, or some of them."""
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(len(LENGTHS), 3, *IMAGE_PX, generator=generator)[pairs]
    numbers = torch.rand(len(LENGTHS), 2, max(LENGTHS), generator=generator, dtype=torch.float64)
    whole = captions()
    for row, length in enumerate(whole.lengths):
        numbers[row, :, length:] = 1.0
    own = Captions(
        token_ids_BL=whole.token_ids_BL[pairs], lengths=whole.lengths[pairs], chunk_id_BL=whole.chunk_id_BL[pairs]
    )
    identity = torch.tensor(IDENTITIES)[pairs]
    batch = Batch(
        image_BCHW=image,
        own=own,
        paired=own,
        replaced_B=torch.zeros_like(identity),
        identity_B=identity,
        group_pairs=2,
        epoch=0.5,
        first_group=(pairs.start or 0) // 2,
    )
    return batch, Draws(numbers={"mlm": numbers[pairs]})


def gradients(method: Any, batch: Batch, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor]]:
    """Losses, numbers, and the gradients of the weighted sum."""
    losses, numbers = method(batch, draws)
    total = torch.stack([method.weights[name] * loss for name, loss in losses.items()]).sum()
    return losses, numbers, list(torch.autograd.grad(total, list(method.parameters())))
