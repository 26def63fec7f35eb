"""The slow copy of a module: theta_m <- m theta_m + (1 - m) theta (ALBEF, arXiv 2107.07651, Sec. 3.2, after MoCo)."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def momentum_copy(module: M, *, without: Collection[str] = ()) -> M:
    """A copy without gradients, equal to `module`.

    without: dotted names of submodules that nothing reads in the copy; of a list of modules, the last ones alone.
    """
    momentum_encoder = copy.deepcopy(module)
    for name in sorted(without, key=_by_number, reverse=True):
        parent, _, leaf = name.rpartition(".")
        holder = momentum_encoder.get_submodule(parent)
        if isinstance(holder, nn.ModuleList):
            assert int(leaf) == len(holder) - 1, f"{name}: what follows it would get its number"
            del holder[int(leaf)]
        else:
            setattr(holder, leaf, None)
    momentum_encoder.requires_grad_(False)
    return momentum_encoder


def left_out(module: nn.Module, momentum_encoder: nn.Module) -> list[str]:
    """Dotted names of the submodules of `module` that its copy lacks, without those inside of another one."""
    kept = {name for name, _ in momentum_encoder.named_modules()}
    return [name for name, _ in module.named_modules() if name not in kept and name.rpartition(".")[0] in kept]


@torch.no_grad()
def advance(momentum_encoder: nn.Module, online: nn.Module, *, momentum: float) -> None:
    """One update of every parameter, in float32 whatever autocast says (a bfloat16 copy at 0.995 does not move)."""
    followed = dict(online.named_parameters())
    slow = dict(momentum_encoder.named_parameters())
    torch._foreach_lerp_(
        [held for parameter in slow.values() for held in _held(parameter)],
        [held for name in slow for held in _held(followed[name])],
        1.0 - momentum,
    )


def _by_number(name: str) -> list[tuple[int, str]]:
    """So that layer 10 comes after layer 9."""
    return [(int(part) if part.isdigit() else -1, part) for part in name.split(".")]


def _held(parameter: nn.Parameter) -> list[Tensor]:
    """Everything this process holds of it: under ZeRO-3 its share, and a small one that is kept whole too."""
    share = getattr(parameter, "ds_tensor", None)
    held: list[Tensor] = [] if share is None else [share]
    if share is None or parameter.numel():
        held.append(parameter.detach())
    return held
