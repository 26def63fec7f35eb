"""Low-rank adapters (LoRA) on linear layers of frozen encoders, made by peft.

y = W x + (alpha / rank) B A x;  W is frozen, A (rank, in) starts random and B (out, rank) at 0: training starts at the base.
Source: LoRA (arXiv 2106.09685), Sec. 4.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

LAYER_OF = {"q": "query", "k": "key", "v": "value", "out": "out", "fc1": "fc1", "fc2": "fc2"}
"""Each target that a user may name, and what its layers are called: parts of attention, and both layers of an MLP."""

_FUSED = {"qkv": ("query", "key", "value"), "key_value": ("key", "value")}
"""Layers that compute several things at once, and what: an adapter on one of them would be shared by all."""


class SplitLinear(nn.Module):
    """A fused layer as layers of their own, each with its rows of the weights; the result is the same."""

    def __init__(self, fused: nn.Linear, names: Sequence[str]) -> None:
        super().__init__()
        weights = fused.weight.detach().chunk(len(names))
        biases = fused.bias.detach().chunk(len(names))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            part = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
            part.weight.data.copy_(weight)
            part.bias.data.copy_(bias)
            part.weight.requires_grad_(fused.weight.requires_grad)
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        """The parts' results side by side."""
        return torch.cat([part(x) for part in self.children()], dim=-1)

    def fused(self) -> nn.Linear:
        """One layer again. No part may carry an adapter any more."""
        parts = [part for part in self.children() if isinstance(part, nn.Linear)]
        weight = torch.cat([part.weight.detach() for part in parts])
        layer = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(torch.cat([part.bias.detach() for part in parts]))
        return layer


def add_adapters(encoders: Iterable[nn.Module], *, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Freeze the encoders, in place, and put an adapter on every layer that `targets` (keys of LAYER_OF) name.

    A layer that is frozen already gets none: a method has said so that no loss reaches it. Fused layers are split first.
    ValueError: no encoder has a layer that a target names.
    """
    from peft import LoraConfig, inject_adapter_in_model

    encoders = list(encoders)
    for encoder in encoders:
        _split_fused(encoder)
    layers = [_layers(encoder) for encoder in encoders]
    there = {target for found in layers for target in found.values()}
    if missing := [target for target in targets if target not in there]:
        raise ValueError(
            f"lora.targets names {missing[0]!r}, and no encoder has such a layer; there are"
            f" {', '.join(target for target in LAYER_OF if target in there)}"
        )
    for encoder, found in zip(encoders, layers, strict=True):
        encoder.requires_grad_(False)
        names = [name for name, target in found.items() if target in targets]
        if names:
            config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, bias="none")  # type: ignore[arg-type]
            inject_adapter_in_model(config, encoder)


def merge_adapters(module: nn.Module) -> None:
    """Add every adapter below `module` to the weights it sits on, take it off, and fuse what was split: in place."""
    from peft.tuners.lora import LoraLayer

    for parent, name, layer in _children(module):
        if isinstance(layer, LoraLayer):
            layer.merge()  # type: ignore[operator]
            setattr(parent, name, layer.get_base_layer())
    for parent, name, layer in _children(module):
        if isinstance(layer, SplitLinear):
            setattr(parent, name, layer.fused())


def frozen_to(encoders: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Keep the frozen weights of linear layers in `dtype`. Norms, embeddings and adapters are small and stay."""
    for encoder in encoders:
        for layer in encoder.modules():
            if type(layer) is nn.Linear and not layer.weight.requires_grad:
                layer.to(dtype)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def _split_fused(encoder: nn.Module) -> None:
    for parent, name, layer in _children(encoder):
        if name in _FUSED and isinstance(layer, nn.Linear):
            setattr(parent, name, SplitLinear(layer, _FUSED[name]))


def _layers(encoder: nn.Module) -> dict[str, str]:
    """Name of each linear layer that may carry an adapter, and the target that it is."""
    target_of = {own: target for target, own in LAYER_OF.items()}
    return {
        name: target_of[name.rpartition(".")[2]]
        for name, layer in encoder.named_modules()
        if isinstance(layer, nn.Linear) and layer.weight.requires_grad and name.rpartition(".")[2] in target_of
    }


def _children(module: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and child of everything below `module`; a list, so that children may be replaced on the way."""
    return [(parent, name, child) for parent in module.modules() for name, child in parent.named_children()]
