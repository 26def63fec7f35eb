"""Adam with parameter groups by rules over names; its state as named tensors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from tbps.config.optim import Optimiser, Rule

logger = logging.getLogger(__name__)

_STATE = ("exp_avg", "exp_avg_sq", "step")


def parameter_groups(method: nn.Module, optim: Optimiser) -> list[dict[str, Any]]:
    """Groups {params, names, base_lr, lr, weight_decay, rate_name}: one for each rate, with and without decay.

    First the parameters whose rate no rule names, then those of each factor, in the order of the rules; in each, those that
    do not decay come first. For the ALBEF family these are the groups of the official code. Frozen parameters (such as the
    momentum encoder) are left out. Within a group, the order is that of `named_parameters`.

    ValueError: a rule matches no parameter at all, frozen ones included.
    """
    named = dict(method.named_parameters())
    _check_rules(optim.rules, list(named))
    trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    factors = list(dict.fromkeys([None, *(rule.factor for rule in optim.rules if rule.factor is not None)]))
    groups: dict[tuple[float | None, bool], list[str]] = {
        (factor, decayed): [] for factor in factors for decayed in (False, True)
    }
    for name, parameter in trained.items():
        groups[optim.factor_of(name), optim.decays(name, dimensions=parameter.ndim)].append(name)
    names = rate_names(optim, list(trained))
    return [
        {
            "params": [trained[name] for name in members],
            "names": members,
            "base_lr": optim.lr * (1.0 if factor is None else factor),
            "lr": optim.lr * (1.0 if factor is None else factor),
            "weight_decay": optim.weight_decay if decayed else 0.0,
            "rate_name": names[1.0 if factor is None else factor],
        }
        for (factor, decayed), members in groups.items()
        if members
    ]


def rate_names(optim: Optimiser, names: Sequence[str]) -> dict[float, str]:
    """What the log calls each rate, by its factor: `lr`, and for another one the rules that some parameter has it from, as
    `lr/classifier+mlm_head`."""
    patterns: dict[float, list[str]] = {}
    for rule in optim.rules:
        if rule.factor is not None and any(rule.matches(name) and optim.factor_of(name) == rule.factor for name in names):
            patterns.setdefault(rule.factor, []).append(rule.pattern)
    found = {factor: f"lr/{'+'.join(dict.fromkeys(parts))}" for factor, parts in patterns.items()}
    return {**found, 1.0: "lr"}


def _check_rules(rules: Sequence[Rule], names: Sequence[str]) -> None:
    for place, rule in enumerate(rules):
        if any(rule.matches(name) for name in names):
            continue
        found = f"optim.rules.{place}.pattern is {rule.pattern!r}, which is in no parameter's name"
        if rule.optional:
            logger.info("%s: that rule has no effect here", found)
            continue
        parts = {part for name in names for part in name.split(".") if not part.isdigit()}
        near = get_close_matches(rule.pattern, sorted(parts), n=3)
        first = sorted({name.split(".")[0] for name in names})
        hint = f"perhaps {' or '.join(near)}" if near else f"names begin with {', '.join(first)}"
        raise ValueError(f"{found} ({hint}): correct it, leave the rule out, or set its optional = True")


def make_optimiser(
    method: nn.Module,
    optim: Optimiser,
    changed: Callable[[type[torch.optim.Adam]], type[torch.optim.Adam]] = lambda kind: kind,
) -> torch.optim.Adam:
    """Fused Adam: one pass over all tensors (CPU too), and it skips the update on the device where `found_inf` is 1.

    changed: what becomes of PyTorch's class.
    """
    kind = changed({"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optim.kind])
    return kind(parameter_groups(method, optim), betas=optim.betas, eps=optim.eps, fused=True)


def state_tensors(optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    """The state as {"exp_avg/<parameter>", "exp_avg_sq/<parameter>", "step/<parameter>"}; empty before the first step."""
    return {
        f"{part}/{name}": optimiser.state[parameter][part]
        for name, parameter in _named(optimiser)
        if parameter in optimiser.state
        for part in _STATE
    }


def load_state_tensors(optimiser: torch.optim.Adam, tensors: Mapping[str, Tensor]) -> None:
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


def _named(optimiser: torch.optim.Adam) -> Iterator[tuple[str, nn.Parameter]]:
    for group in optimiser.param_groups:
        yield from zip(group["names"], group["params"])
