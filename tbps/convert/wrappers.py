"""Keys of weights as the bare model has them, whatever wrapped it when it was saved."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_ANYWHERE = frozenset(("module", "_forward_module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
"""Levels of DDP and DeepSpeed, Lightning Fabric, torch.compile, FSDP, checkpointing: around the model or a part of it."""
_IN_FRONT = frozenset(("model", "net", "network"))
"""Names under which training scripts (Lightning's among them) hold their model."""

_IMAGE, _TEXT = re.compile(r"((?:[^.]+\.)*?)vis(?:ual|ion)_encoder\."), re.compile(r"((?:[^.]+\.)*?)text_encoder\.")
_BERT = re.compile(r"((?:[^.]+\.)*?)(?:bert\.)?embeddings\.word_embeddings\.weight")
_VIT = re.compile(
    r"((?:[^.]+\.)*?)(?:(?:vit|deit)\.)?(?:patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.weight"
)


def unwrapped(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors under bare keys: levels of wrappers are taken off, repeatedly, of every key that has them.

    Example: `model._orig_mod.visual_encoder.cls_token` and `text_encoder.module.bert.pooler.dense.bias` become
    `visual_encoder.cls_token` and `text_encoder.bert.pooler.dense.bias`. ValueError where two keys would become one with
    different values, or where several models lie under different names.
    """
    bare = _join(tensors, {key: _without_wrappers(key) for key in tensors}, source)
    prefix = _prefix(bare, source)
    return _join(bare, {key: key.removeprefix(prefix) for key in bare}, source) if prefix else bare


def _without_wrappers(key: str) -> str:
    levels = [level for level in key.split(".") if level not in _ANYWHERE]
    while len(levels) > 1 and levels[0] in _IN_FRONT:
        del levels[0]
    return ".".join(levels)


def _prefix(tensors: Mapping[str, Tensor], source: str) -> str:
    """Another name in front of a model that we know; of several models the one without a name, else none can be chosen."""
    kinds = [_BERT, _VIT]
    if _fronts(_IMAGE, tensors) & _fronts(_TEXT, tensors):
        kinds = [_IMAGE]
    for kind in kinds:
        fronts = _fronts(kind, tensors)
        if len(fronts) > 1 and "" not in fronts:
            raise ValueError(
                f"{source}: holds several models, under {' and '.join(sorted(fronts))}, expected one; save the state dict of"
                " the one that you want alone"
            )
        if fronts:
            return "" if "" in fronts else fronts.pop()
    return ""


def _fronts(kind: re.Pattern[str], tensors: Mapping[str, Tensor]) -> set[str]:
    return {match[1] for key in tensors if (match := kind.match(key))}


def _join(tensors: Mapping[str, Tensor], bare: Mapping[str, str], source: str) -> dict[str, Tensor]:
    """Tensors under their bare keys; the same one stored under two keys counts once."""
    out: dict[str, Tensor] = {}
    came_from: dict[str, str] = {}
    for key, tensor in tensors.items():
        new = bare[key]
        if new in out and not (out[new].shape == tensor.shape and torch.equal(out[new], tensor)):
            raise ValueError(
                f"{source}: {came_from[new]} and {key} are both {new} of the bare model and differ, expected one of them;"
                " save the state dict of one model alone"
            )
        out[new], came_from[new] = tensor, key
    return out
