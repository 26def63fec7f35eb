"""Official ALBEF, RaSa and MARS weights under our names.

Facts about the files: salesforce/ALBEF, Flame-Chasers/RaSa and ErgastiAlex/MARS store the weights under `model`; queues are
(features, places); the word head's output matrix and bias are stored twice; ALBEF's fine-tuned files have no `bert.` level.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tbps.convert.official_names import official_names

_DUPLICATES = {
    "cls.predictions.decoder.weight": "{bert}embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


@dataclass(kw_only=True)
class Converted:
    """Tensors under our names, and the official keys that have no place."""

    tensors: dict[str, Tensor]
    unplaced: list[str] = field(default_factory=list)


def from_official(state: Mapping[str, Tensor]) -> Converted:
    """Rename, fuse and transpose official tensors; every key is placed, a checked duplicate, or reported."""
    bert_level = any(key.startswith("text_encoder.bert.") for key in state)
    left = dict(state)
    _drop_duplicates(left, bert="bert." if bert_level else "")
    tensors: dict[str, Tensor] = {}
    for name in _our_names(state):
        parts = official_names(name, bert_level=bert_level)
        if parts and all(part in left for part in parts):
            tensors[name] = _shape(
                name, torch.cat([left.pop(part) for part in parts]) if len(parts) > 1 else left.pop(parts[0])
            )
    if "queue.identity_K" not in tensors:
        # Pretraining queues have no identities: their features are nobody's, and worse than an empty queue.
        for name in ("queue.image_KE", "queue.caption_KE", "queue.pointer"):
            tensors.pop(name, None)
    return Converted(tensors=tensors, unplaced=sorted(left))


def to_official(tensors: Mapping[str, Tensor], *, bert_level: bool = True) -> dict[str, Tensor]:
    """The inverse: our tensors (weights or gradients) under official names; tensors of ours alone are left out."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = official_names(name, bert_level=bert_level)
        if parts:
            out |= dict(zip(parts, _unshape(name, tensor).chunk(len(parts)) if len(parts) > 1 else [_unshape(name, tensor)]))
    return out


def _our_names(state: Iterable[str]) -> list[str]:
    """Every name of ours that a file with as many layers can hold."""
    depth = dict.fromkeys(("visual_encoder.blocks", "encoder.layer", "visual_decoder.blocks"), 0)
    for key in state:
        for kind in depth:
            match = re.search(re.escape(kind) + r"\.(\d+)\.", key)
            if match:
                depth[kind] = max(depth[kind], int(match[1]) + 1)
    norm, linear = ("weight", "bias"), ("weight", "bias")
    encoder = ["image_encoder.cls_token", "image_encoder.positions", "text_encoder.words.weight"]
    encoder += ["text_encoder.positions.weight", "text_encoder.token_type", "word_head.bias"]
    for module in ("image_encoder.patch_embed", "image_encoder.norm", "image_projection", "text_projection"):
        encoder += [f"{module}.{part}" for part in linear]
    encoder += [f"{module}.{part}" for module in ("word_head.dense", "word_head.norm", "text_encoder.norm") for part in norm]
    for block in range(depth["visual_encoder.blocks"]):
        for module in ("norm1", "qkv", "out", "norm2", "fc1", "fc2"):
            encoder += [f"image_encoder.blocks.{block}.{module}.{part}" for part in linear]
    for layer in range(depth["encoder.layer"]):
        for module in (
            *("self_attention." + part for part in ("qkv", "out", "norm")),
            *("cross_attention." + part for part in ("query", "key_value", "out", "norm")),
            *("fc1", "fc2", "norm"),
        ):
            encoder += [f"text_encoder.layers.{layer}.{module}.{part}" for part in linear]
    names = [f"{copy}.{name}" for copy in ("online", "twin") for name in encoder]
    names += ["temperature", "mae_decoder.mask_token", "mae_decoder.positions"]
    names += [f"queue.{name}" for name in ("image_KE", "caption_KE", "identity_K", "pointer")]
    for module in ("itm_head", "prd_head", "mrtd_head", "mae_decoder.pixels"):
        names += [f"{module}.{part}" for part in linear]
    for block in range(depth["visual_decoder.blocks"]):
        for module in (
            *(f"{kind}_attention.{part}" for kind in ("self", "cross") for part in ("query", "key", "value", "out")),
            *("fc1", "fc2", "norm1", "norm2", "norm3"),
        ):
            names += [f"mae_decoder.blocks.{block}.{module}.{part}" for part in linear]
    return names


def _shape(name: str, tensor: Tensor) -> Tensor:
    if name in ("queue.image_KE", "queue.caption_KE"):
        return tensor.T.contiguous()
    return tensor.reshape(-1) if name == "queue.identity_K" else tensor


def _unshape(name: str, tensor: Tensor) -> Tensor:
    if name in ("queue.image_KE", "queue.caption_KE"):
        return tensor.T
    return tensor[None] if name == "queue.identity_K" else tensor


def _drop_duplicates(state: dict[str, Tensor], *, bert: str) -> None:
    for encoder in ("text_encoder", "text_encoder_m"):
        for level in ("", "bert."):
            state.pop(f"{encoder}.{level}embeddings.position_ids", None)
        for copy, original in _DUPLICATES.items():
            copied = state.pop(f"{encoder}.{copy}", None)
            source = state.get(f"{encoder}.{original.format(bert=bert)}")
            if copied is not None and source is not None and not torch.equal(copied, source):
                raise ValueError(
                    f"{encoder}.{copy} differs from {encoder}.{original.format(bert=bert)}, expected the same tensor stored"
                    " twice; the file is not an official checkpoint of this family"
                )
