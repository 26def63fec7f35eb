"""Small encoders with weights large enough that every part shows in the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from tbps.nn.bert import Bert
from tbps.nn.swin import SwinTransformer
from tbps.nn.vit import VisionTransformer

M = TypeVar("M", bound=nn.Module)


def shaken(build: Callable[[], M]) -> M:
    """The same module at every call, each parameter moved by noise: biases of 0 and norms of 1 would hide errors."""
    torch.manual_seed(0)
    module = build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def tiny_bert(*, full_cross_attention: bool = False, dropout: float = 0.0) -> Bert:
    """Four layers of width 16; two of them, or all, see images of width 12."""
    return shaken(
        lambda: Bert(
            width=16,
            layers=4,
            heads=2,
            intermediate=24,
            vocabulary_size=30,
            max_positions=40,
            fusion_layer=2,
            full_cross_attention=full_cross_attention,
            image_width=12,
            dropout=dropout,
        )
    )


def tiny_vit() -> VisionTransformer:
    """Two blocks of width 12 on 16 x 8 pixels: 4 x 2 patches."""
    return shaken(lambda: VisionTransformer(image_px=(16, 8), patch_px=4, width=12, depth=2, heads=3))


def tiny_swin(*, drop_path: float = 0.0) -> SwinTransformer:
    """Two stages of two blocks on 32 x 16 pixels: windows of 2 x 2 on 8 x 4 tokens, shifted once, then 2 x 2 on 4 x 2."""
    return shaken(
        lambda: SwinTransformer(
            image_px=(32, 16), patch_px=4, width=8, depths=(2, 2), heads=(2, 4), window=2, drop_path=drop_path
        )
    )
