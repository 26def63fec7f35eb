"""The slow copy of a module: theta_m <- m theta_m + (1 - m) theta (ALBEF, arXiv 2107.07651, Sec. 3.2, after MoCo)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def momentum_copy(module: M) -> M:
    """A copy without gradients, equal to `module`."""
    momentum_encoder = copy.deepcopy(module)
    momentum_encoder.requires_grad_(False)
    return momentum_encoder


@torch.no_grad()
def advance(momentum_encoder: nn.Module, online: nn.Module, *, momentum: float) -> None:
    """One update of every parameter, in float32 whatever autocast says (a bfloat16 copy at 0.995 does not move)."""
    torch._foreach_lerp_(_held(momentum_encoder), _held(online), 1.0 - momentum)


def _held(module: nn.Module) -> list[Tensor]:
    """Everything this process holds of the parameters: under ZeRO-3 its shares, and small ones that it keeps whole too."""
    held: list[Tensor] = []
    for parameter in module.parameters():
        share = getattr(parameter, "ds_tensor", None)
        if share is not None:
            held.append(share)
        if share is None or parameter.numel():
            held.append(parameter.detach())
    return held
