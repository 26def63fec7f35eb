"""A small BAMG with random weights, and batches for it: those of tests/methods/clip/tiny_irra.py with parsing maps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tiny_irra
import torch
from torch import Tensor

from tbps.config.methods.bamg import Bamg
from tbps.data.batch import Batch, Draws
from tbps.methods.registry import build_method

IMAGE_PX = tiny_irra.IMAGE_PX
BAMG = Bamg(towers=tiny_irra.TOWERS, fusion_layers=2, fusion_heads=2, fusion_tokens=3)
GROUP_PAIRS = 4
PAIRS = len(tiny_irra.LENGTHS)


def build(config: Bamg = BAMG) -> Any:
    """The same method at every call, in training mode; every parameter is moved by noise."""
    torch.manual_seed(0)
    method = build_method(config, image_px=IMAGE_PX)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        method.temperature.fill_(0.1)
    return method.train()


def maps() -> Tensor:
    """A figure in each image; the third shows a head alone, the sixth nobody."""
    body = torch.zeros(PAIRS, *IMAGE_PX, dtype=torch.uint8)
    body[:, 1:6, 5:11] = 1
    body[:, 6:16, 4:12] = 2
    body[:, 7:12, 1:4], body[:, 12:15, 1:4] = 3, 4
    body[:, 7:12, 12:15], body[:, 12:15, 12:15] = 3, 4
    body[:, 16:22, 4:7], body[:, 22:30, 4:7] = 5, 6
    body[:, 16:22, 9:12], body[:, 22:30, 9:12] = 5, 6
    body[1, 16:] = 0  # an image cut at the waist
    body[2, 6:] = 0
    body[5] = 0
    return body


def step(pairs: slice = slice(None)) -> tuple[Batch, Draws]:
    """The pairs of a batch of eight in two groups, or some of them; a part of an image is erased."""
    batch, draws = tiny_irra.step(pairs)
    generator = torch.Generator().manual_seed(3)
    draws.numbers["negatives"] = torch.rand(PAIRS, 2, generator=generator, dtype=torch.float64)[pairs]
    draws.numbers["masked_part"] = torch.rand(PAIRS, 1, generator=generator, dtype=torch.float64)[pairs]
    erased = torch.zeros(PAIRS, *IMAGE_PX, dtype=torch.bool)
    erased[3, :20, :8] = True
    first = (pairs.start or 0) // GROUP_PAIRS
    changes = {"group_pairs": GROUP_PAIRS, "first_group": first, "fields": {"parsing_pascal": maps()[pairs]}}
    return replace(batch, erased_BHW=erased[pairs], **changes), draws  # type: ignore[arg-type]
