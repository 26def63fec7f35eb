"""A small BiLMa with random weights, and batches for it, made without the data pipeline."""

from __future__ import annotations

from typing import Any

import torch
from tiny_irra import IMAGE_PX, LENGTHS, NUM_IDENTITIES, TOWERS
from tiny_irra import step as irra_step

from tbps.config.methods.bilma import Bilma
from tbps.data.batch import Batch, Draws
from tbps.methods.registry import build_method

BILMA = Bilma(towers=TOWERS, encoder_layers=2, encoder_heads=2, patch_mask_ratio=0.4)
PATCHES = (IMAGE_PX[0] // 8) * (IMAGE_PX[1] // 8)


def build(config: Bilma = BILMA) -> Any:
    """The same method at every call, in training mode; every parameter is moved by noise."""
    torch.manual_seed(0)
    method = build_method(config, image_px=IMAGE_PX, num_identities=NUM_IDENTITIES)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method.train()


def step(pairs: slice = slice(None)) -> tuple[Batch, Draws]:
    """The pairs of a batch of eight, or some of them, with maps of four labels, some of them erased."""
    batch, draws = irra_step(pairs)
    generator = torch.Generator().manual_seed(4)
    small = torch.randint(4, (len(LENGTHS), IMAGE_PX[0] // 4, IMAGE_PX[1] // 4), generator=generator, dtype=torch.uint8)
    maps = (small * 5).repeat_interleave(4, 1).repeat_interleave(4, 2)
    batch.fields[BILMA.field] = maps[pairs]
    erased = torch.zeros(maps.shape, dtype=torch.bool)
    erased[::2, 6:20, :11] = True
    batch.erased_BHW = erased[pairs]
    numbers = torch.rand(len(LENGTHS), PATCHES, generator=generator, dtype=torch.float64)
    draws.numbers["patches"] = numbers[pairs]
    return batch, draws
