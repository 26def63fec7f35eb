"""torch.compile for the image encoder's blocks, where most of a step's work is."""

from __future__ import annotations

import logging

import torch
from torch import nn

from tbps.nn.vit import VitBlock

logger = logging.getLogger(__name__)


def compile_image_blocks(method: nn.Module, device: torch.device) -> None:
    """Compile every ViT block in place: parameter names stay. A warning where that does nothing: on the CPU, or where the
    method has none (Swin and CLIP's towers run as they are)."""
    if device.type != "cuda":
        logger.warning("loop.compile has no effect on %s: it is for CUDA", device.type)
        return
    blocks = [module for module in method.modules() if isinstance(module, VitBlock)]
    if not blocks:
        logger.warning("loop.compile has no effect: it compiles blocks of ALBEF's ViT, and this method has none")
    for block in blocks:
        block.compile()
