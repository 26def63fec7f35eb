"""torch.compile for the image encoder's blocks, where most of a step's work is."""

from __future__ import annotations

import logging

import torch
from torch import nn

from tbps.nn.vit import VitBlock

logger = logging.getLogger(__name__)


def compile_image_blocks(method: nn.Module, device: torch.device) -> None:
    """Compile every ViT block in place: parameter names stay. On the CPU it gains nothing: left out, with a warning."""
    if device.type != "cuda":
        logger.warning("loop.compile has no effect on %s: it is for CUDA", device.type)
        return
    for module in method.modules():
        if isinstance(module, VitBlock):
            module.compile()
