"""Low-rank adapters on a method's encoders: put there once the base is loaded; checkpoints hold adapters and heads only."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tbps.config.lora import Lora
from tbps.methods.method import Method
from tbps.nn.lora import add_adapters, digest_of, frozen_to
from tbps.nn.momentum import momentum_copy
from tbps.runs import checkpoint
from tbps.runs.selection import best_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """The frozen weights under the adapters."""

    sha256: str
    """Of the encoders as they were loaded, before adapters were put on them; empty where there are no adapters."""
    frozen: frozenset[str]
    """Names, in the adapted method's state, of tensors that never change: no checkpoint holds them."""


WHOLE = Base(sha256="", frozen=frozenset())
"""No adapters: everything may change."""


def adapt(method: Method, lora: Lora) -> Base:
    """Put adapters on the encoders of a method whose base is in place; slow copies of them become copies anew.

    ValueError: the method names no encoders, or they have no such layers.
    """
    if not lora.on:
        return WHOLE
    if not method.encoders:
        raise ValueError(
            f"lora.targets is {lora.targets}, and {type(method).__name__} does not say which of its modules are encoders:"
            " give it `encoders`, or leave lora.targets empty"
        )
    sha256 = base_sha256(method)
    encoders = [method.get_submodule(name) for name in method.encoders]
    add_adapters(encoders, rank=lora.rank, alpha=lora.alpha, targets=lora.names)
    if lora.base == "bf16":
        frozen_to(encoders, torch.bfloat16)
    frozen = {
        f"{name}.{inner}"
        for name in method.encoders
        for inner, parameter in method.get_submodule(name).named_parameters()
        if not parameter.requires_grad
    }
    for copy, source in method.copies.items():
        for name in method.encoders:
            if name.startswith(f"{source}."):  # in place: others may hold the module that it is a part of
                parent, _, leaf = (copy + name.removeprefix(source)).rpartition(".")
                setattr(method.get_submodule(parent), leaf, momentum_copy(method.get_submodule(name)))
        frozen |= {copy + inner.removeprefix(source) for inner in frozen if inner.startswith(f"{source}.")}
    return Base(sha256=sha256, frozen=frozenset(frozen))


def base_sha256(method: Method) -> str:
    """Digest of the encoders of a method without adapters, whatever file they came from."""
    return digest_of(
        {
            f"{name}.{inner}": tensor
            for name in method.encoders
            for inner, tensor in method.get_submodule(name).state_dict().items()
        }
    )


def in_words(method: Method, lora: Lora) -> str:
    """What is trained, what is frozen, and what that costs."""
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    adapters = sum(p.numel() * p.element_size() for name, p in trained.items() if ".lora_" in name)
    copies = tuple(f"{name}." for name in method.copies)
    frozen = sum(p.numel() for name, p in method.named_parameters() if not p.requires_grad and not name.startswith(copies))
    numbers = sum(p.numel() for p in trained.values())
    return (
        f"adapters of rank {lora.rank} on {', '.join(lora.names)}: {numbers:,} parameters are trained, {frozen:,} are"
        f" frozen; the adapters take {adapters / 1e6:.2f} MB, the optimiser's state {2 * 4 * numbers / 1e6:.2f} MB"
    )


def check_base(base: Base, recorded: object, where: Path) -> None:
    """ValueError where adapters at `where` were trained on another base than the one in place."""
    if base.sha256 and recorded != base.sha256:
        raise ValueError(
            f"the adapters in {where} were trained on encoders with sha256 {recorded}, found {base.sha256}: start from the"
            " weights that they were trained on (start.weights, or the encoders' own)"
        )


def load_adapters(method: Method, base: Base, given: str) -> str:
    """Adapters and heads of another run on the same base into an adapted method; returns what was done, in words.

    ValueError: there are none, they sit on another base, or an adapter is missing or of another rank.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        folder = best_checkpoint(path)
        path, recorded = folder / checkpoint.MODEL_FILE, checkpoint.read_progress(folder).get(checkpoint.BASE, "")
        found = checkpoint.read_tensors(path)
    else:
        try:
            with safe_open(path, framework="pt") as opened:
                recorded = (opened.metadata() or {}).get(checkpoint.BASE, "")
            found = checkpoint.read_tensors(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(
                f"lora.adapters {path} cannot be read ({error}); expected a file of `tbps convert --export`"
            ) from error
    if not recorded:
        raise ValueError(
            f"lora.adapters {path} holds no adapters; expected an export, or the folder, of a run with lora.targets"
        )
    check_base(base, recorded, path)
    own = {name: tensor for name, tensor in method.state_dict().items() if name not in base.frozen}
    copies = tuple(f"{name}." for name in method.copies)
    wrong = [
        f"{name}: found {tuple(found[name].shape) if name in found else 'none'}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if ".lora_" in name and not name.startswith(copies) and (name not in found or found[name].shape != tensor.shape)
    ]
    if wrong:
        raise ValueError(
            f"lora.adapters {path} does not fit: {'; '.join(wrong[:2])}; give lora.rank and lora.targets as it was made with"
        )
    placed = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    method.load_state_dict(placed, strict=False)
    return f"adapters and heads of {path}: {len(placed)} tensors"
