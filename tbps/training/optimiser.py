"""AdamW with the parameter groups of the official ALBEF, RaSa and MARS code; its state as named tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tbps.config.optim import AdamW

_STATE = ("exp_avg", "exp_avg_sq", "step")


def parameter_groups(method: nn.Module, optim: AdamW) -> list[dict[str, Any]]:
    """Up to four groups {params, names, base_lr, lr, weight_decay}, in the order and by the rules of the official code.

    No decay if and only if a tensor has exactly one dimension or is called bias: the 0-dimensional temperature, word
    vectors, [CLS] and positions are decayed. Heads in `head_names` (any part of the dotted name) train at `head_lr`.
    Frozen parameters (the momentum encoder) are left out. Within a group, the order is that of `named_parameters`.
    """
    groups: dict[tuple[bool, bool], list[tuple[str, nn.Parameter]]] = {
        (head, decayed): [] for head in (False, True) for decayed in (False, True)
    }
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            head = any(part in optim.head_names for part in name.split("."))
            decayed = parameter.ndim != 1 and not name.endswith(".bias")
            groups[head, decayed].append((name, parameter))
    return [
        {
            "params": [parameter for _, parameter in members],
            "names": [name for name, _ in members],
            "base_lr": optim.head_lr if head else optim.lr,
            "lr": optim.head_lr if head else optim.lr,
            "weight_decay": optim.weight_decay if decayed else 0.0,
        }
        for (head, decayed), members in groups.items()
        if members
    ]


def make_optimiser(method: nn.Module, optim: AdamW) -> torch.optim.AdamW:
    """Fused AdamW: one pass over all tensors (CPU too), and it skips the update on the device where `found_inf` is 1."""
    return torch.optim.AdamW(parameter_groups(method, optim), betas=optim.betas, eps=optim.eps, fused=True)


def state_tensors(optimiser: torch.optim.AdamW) -> dict[str, Tensor]:
    """The state as {"exp_avg/<parameter>", "exp_avg_sq/<parameter>", "step/<parameter>"}; empty before the first step."""
    return {
        f"{part}/{name}": optimiser.state[parameter][part]
        for name, parameter in _named(optimiser)
        if parameter in optimiser.state
        for part in _STATE
    }


def load_state_tensors(optimiser: torch.optim.AdamW, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state_tensors` gave. ValueError as `check_state_tensors`."""
    named = dict(_named(optimiser))
    check_state_tensors(tensors, {name: tuple(parameter.shape) for name, parameter in named.items()})
    for name, parameter in named.items():
        if f"step/{name}" in tensors:
            # Copied on the CPU, too: what was read is the mapped file, which a later save prunes.
            optimiser.state[parameter] = {part: tensors[f"{part}/{name}"].to(parameter.device, copy=True) for part in _STATE}


def check_state_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """ValueError names tensors that are missing, left over or of another shape than the parameter of that name."""
    # A parameter that never had a gradient has no state: all three parts of it are absent.
    expected = {f"{part}/{name}" for name in shapes if f"step/{name}" in tensors for part in _STATE}
    if set(tensors) != expected:
        wrong = sorted(set(tensors) ^ expected)
        raise ValueError(
            f"the optimiser state does not fit: {len(wrong)} tensors are missing or unknown ({', '.join(wrong[:3])});"
            " it belongs to another architecture or version, start a new run"
        )
    for name, shape in shapes.items():
        if f"step/{name}" in tensors and tuple(tensors[f"exp_avg/{name}"].shape) != shape:
            raise ValueError(
                f"the optimiser state of {name} has shape {tuple(tensors[f'exp_avg/{name}'].shape)}, expected {shape};"
                " it belongs to another architecture, start a new run"
            )


def _named(optimiser: torch.optim.AdamW) -> Iterator[tuple[str, nn.Parameter]]:
    for group in optimiser.param_groups:
        yield from zip(group["names"], group["params"])
