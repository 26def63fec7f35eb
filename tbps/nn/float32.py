"""Single layers in float32 where all else is rounded to bfloat16."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn


def float32_layers(layers: Iterable[nn.Module], device: torch.device) -> AbstractContextManager[Any]:
    """Computes these layers without autocast: what they are given must be float32.

    Autocast stays on where some of their weights do not lie in float32, as frozen ones under adapters may.
    """
    whole = all(weight.dtype == torch.float32 for layer in layers for weight in layer.parameters())
    return torch.autocast(device.type, enabled=False) if whole else nullcontext()
