"""The slow copy of a module: theta_m <- m theta_m + (1 - m) theta. Source: ALBEF, Sec. 3.2 (after MoCo)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def momentum_copy(module: M) -> M:
    """A copy without gradients, equal to `module`."""
    twin = copy.deepcopy(module)
    twin.requires_grad_(False)
    return twin


@torch.no_grad()
def advance(twin: nn.Module, online: nn.Module, *, momentum: float) -> None:
    """One update of every parameter, in float32 whatever autocast says (a bfloat16 twin at 0.995 does not move)."""
    twin_parameters: list[Tensor] = list(twin.parameters())
    online_parameters = [parameter.detach() for parameter in online.parameters()]
    torch._foreach_lerp_(twin_parameters, online_parameters, 1.0 - momentum)
