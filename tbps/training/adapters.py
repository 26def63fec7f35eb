"""Low-rank adapters on a method's encoders: put there once the base is loaded; checkpoints hold adapters and heads only."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tbps.config.lora import Lora
from tbps.methods.method import Method
from tbps.nn.lora import LAYER_OF, add_adapters, digest_of, frozen_to
from tbps.nn.momentum import left_out, momentum_copy
from tbps.runs import checkpoint
from tbps.runs.run_folder import RunFolder
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
    """Put adapters on the encoders of a method whose base is in place; see `put_adapters`."""
    if not lora.on:
        return WHOLE
    _check_encoders(method, lora)
    return Base(sha256=base_sha256(method), frozen=put_adapters(method, lora))


def put_adapters(method: Method, lora: Lora) -> frozenset[str]:
    """Adapters on the encoders, whatever their weights; slow copies of them become copies anew. `Base.frozen`.

    ValueError: the method names no encoders, or they have no such layers.
    """
    if not lora.on:
        return frozenset()
    _check_encoders(method, lora)
    encoders = [method.get_submodule(name) for name in method.encoders]
    copied = {
        copy + name.removeprefix(source): name
        for copy, source in method.copies.items()
        for name in method.encoders
        if name.startswith(f"{source}.")
    }
    lacking = {copy: left_out(method.get_submodule(name), method.get_submodule(copy)) for copy, name in copied.items()}
    add_adapters(encoders, rank=lora.rank, alpha=lora.alpha, targets=lora.names)
    for name in method.unfrozen:
        method.get_parameter(name).requires_grad_(True)
    if lora.base == "bf16":
        frozen_to(encoders, torch.bfloat16)
    frozen = {
        f"{name}.{inner}"
        for name in method.encoders
        for inner, parameter in method.get_submodule(name).named_parameters()
        if not parameter.requires_grad
    }
    for copy, name in copied.items():  # in place: others may hold the module that it is a part of
        parent, _, leaf = copy.rpartition(".")
        setattr(method.get_submodule(parent), leaf, momentum_copy(method.get_submodule(name), without=lacking[copy]))
    for copy, source in method.copies.items():
        frozen |= {copy + inner.removeprefix(source) for inner in frozen if inner.startswith(f"{source}.")}
    return frozenset(frozen)


def _check_encoders(method: Method, lora: Lora) -> None:
    if not method.encoders:
        raise ValueError(
            f"lora.targets is {lora.targets}, and {type(method).__name__} does not say which of its modules are encoders:"
            " give it `encoders`, or leave lora.targets empty"
        )


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
    frozen = [p for name, p in method.named_parameters() if not p.requires_grad and not name.startswith(copies)]
    numbers = sum(p.numel() for p in trained.values())
    moments = 2 * sum(p.numel() * p.element_size() for p in trained.values())  # Adam keeps two numbers for each
    return (
        f"adapters of rank {lora.rank} on {', '.join(lora.names)}: {numbers:,} parameters are trained,"
        f" {sum(p.numel() for p in frozen):,} are frozen; the adapters take {adapters / 1e6:.2f} MB, the optimiser's state"
        f" {moments / 1e6:.2f} MB, the frozen parameters {sum(p.numel() * p.element_size() for p in frozen) / 1e6:.2f} MB"
    )


def gradients_in_words(norms: Mapping[str, Tensor]) -> str:
    """How large the adapters' gradients are, by target, and which adapters got none.

    norms: of every trained parameter, by name. An adapter's norm is that of A and B together: A has none while B is 0.
    """
    squared: dict[str, float] = {}
    for name, norm in norms.items():
        layer, is_adapter, _ = name.partition(".lora_")
        if is_adapter:
            squared[layer] = squared.get(layer, 0.0) + float(norm) ** 2
    without = [layer for layer, value in squared.items() if value == 0.0]
    ranges = []
    for target, own in LAYER_OF.items():
        if found := [math.sqrt(value) for layer, value in squared.items() if layer.rpartition(".")[2] == own]:
            ranges.append(f"{target} {min(found):.2e} to {max(found):.2e}")
    missing = f"{len(without)} got none: {', '.join(without)}" if without else "each got one"
    return f"gradient norms of {len(squared)} adapters: {', '.join(ranges)}; {missing}"


def check_base(base: Base, recorded: object, where: Path) -> None:
    """ValueError where adapters at `where` were trained on another base than the one in place."""
    if base.sha256 and recorded != base.sha256:
        raise ValueError(
            f"the adapters in {where} were trained on encoders with sha256 {recorded}, found {base.sha256}: start from the"
            " weights that they were trained on (start.weights, or the encoders' own)"
        )


def load_adapters(method: Method, base: Base, lora: Lora) -> str:
    """Adapters and heads of another run on the same base into a method adapted by `lora`; returns what was done, in words.

    ValueError: there are none, they sit on another base or on other layers, or have another rank or alpha.
    """
    path = Path(lora.adapters).expanduser()
    found, told = _of_a_run(path) if path.is_dir() else _of_a_file(path)
    if not told.get(checkpoint.BASE):
        raise ValueError(
            f"lora.adapters {path} holds no adapters; expected an export, or the folder, of a run with lora.targets"
        )
    check_base(base, told[checkpoint.BASE], path)
    state = method.state_dict()
    own = {name: tensor for name, tensor in state.items() if name not in base.frozen}
    wrong = _differences(found, own, copies=tuple(f"{name}." for name in method.copies))
    if (alpha := told.get(checkpoint.ALPHA)) != f"{lora.alpha:g}":
        wrong.append(f"alpha: found {alpha}, expected {lora.alpha:g}")
    if wrong:
        raise ValueError(
            f"lora.adapters {path} does not fit: {'; '.join(wrong[:2])}; give lora.rank, lora.alpha and lora.targets as it"
            " was made with"
        )
    placed = {name: tensor for name, tensor in found.items() if name in own and own[name].shape == tensor.shape}
    method.load_state_dict(placed, strict=False)
    for copy, source in method.copies.items():  # an export leaves slow copies out
        for name in state.keys() - placed.keys():
            if name.startswith(f"{copy}."):
                state[name].copy_(state[source + name.removeprefix(copy)])
    return f"adapters and heads of {path}: {len(placed)} tensors"


_Told = Mapping[str, str]
"""What is recorded of adapters: the sha256 of their base, and their alpha."""


def _of_a_run(path: Path) -> tuple[dict[str, Tensor], _Told]:
    folder = best_checkpoint(path)
    base = str(checkpoint.read_progress(folder).get(checkpoint.BASE, ""))
    alpha = RunFolder(path).read_run().lora.alpha
    return checkpoint.read_tensors(folder / checkpoint.MODEL_FILE), {checkpoint.BASE: base, checkpoint.ALPHA: f"{alpha:g}"}


def _of_a_file(path: Path) -> tuple[dict[str, Tensor], _Told]:
    try:
        with safe_open(path, framework="pt") as opened:
            told = opened.metadata() or {}
        return checkpoint.read_tensors(path), told
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"lora.adapters {path} cannot be read ({error}); expected a file of `tbps convert --export`"
        ) from error


def _differences(found: Mapping[str, Tensor], own: Mapping[str, Tensor], *, copies: tuple[str, ...]) -> list[str]:
    """Adapters that are missing, of another shape, or too many; those below slow copies (`copies`) may be either."""
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items() if ".lora_" in name}
    wrong = [
        f"{name}: found {shapes.get(name, 'none')}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if ".lora_" in name and not name.startswith(copies) and shapes.get(name) != tuple(tensor.shape)
    ]
    unknown = [name for name in shapes if name not in own and not name.startswith(copies)]
    return wrong + [f"{name}: found {shapes[name]}, expected none" for name in unknown]
