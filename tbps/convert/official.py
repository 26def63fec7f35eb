"""Official ALBEF, RaSa and MARS weights under our names, and back.

Facts about the files: salesforce/ALBEF, Flame-Chasers/RaSa and ErgastiAlex/MARS store the weights under `model`; queues are
(features, places); the word head's output matrix and bias are stored twice; ALBEF's fine-tuned files have no `bert.` level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tbps.convert.naming import rename
from tbps.convert.official_names import official_names, our_name

_TEXT_ENCODERS = ("text_encoder", "text_encoder_m")
_UNIDENTIFIED_QUEUE: tuple[str, ...] = ("image_queue", "text_queue", "queue_ptr")
_DUPLICATES = {
    "cls.predictions.decoder.weight": "{bert}embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


@dataclass(kw_only=True)
class Converted:
    """Tensors under our names, and what became of the other keys."""

    tensors: dict[str, Tensor]
    unplaced: list[str] = field(default_factory=list)
    """Keys that have no place."""
    duplicates: list[str] = field(default_factory=list)
    """Keys left out because they repeat another tensor or count positions."""
    queue_dropped: list[str] = field(default_factory=list)
    """Keys of a queue without identities."""


def from_official(state: Mapping[str, Tensor]) -> Converted:
    """Rename, fuse and transpose official tensors; every key is placed, a checked duplicate, or reported.

    ValueError where a tensor that should be stored twice has two values.
    """
    duplicates = stored_twice(state)
    kept = {key: tensor for key, tensor in state.items() if key not in duplicates}
    # Pretraining queues have no identities: their features are nobody's, and worse than an empty queue.
    queue = [] if "idx_queue" in kept else [key for key in _UNIDENTIFIED_QUEUE if key in kept]
    for key in queue:
        del kept[key]
    tensors, unplaced = rename(kept, our_name)
    tensors = {name: _shape(name, tensor) for name, tensor in tensors.items()}
    return Converted(tensors=tensors, unplaced=unplaced, duplicates=duplicates, queue_dropped=queue)


def to_official(tensors: Mapping[str, Tensor], *, bert_level: bool = True) -> dict[str, Tensor]:
    """The inverse: our tensors (weights or gradients) under official names; tensors of ours alone are left out."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = official_names(name, bert_level=bert_level)
        if parts:
            tensor = _unshape(name, tensor)
            out |= dict(zip(parts, tensor.chunk(len(parts)) if len(parts) > 1 else [tensor]))
    return out


def with_duplicates(official: Mapping[str, Tensor], *, bert_level: bool) -> dict[str, Tensor]:
    """Official tensors and what official files store twice: the word head's output, numbered positions."""
    out, bert = dict(official), "bert." if bert_level else ""
    for encoder in _TEXT_ENCODERS:
        positions = official.get(f"{encoder}.{bert}embeddings.position_embeddings.weight")
        if positions is not None:
            out[f"{encoder}.{bert}embeddings.position_ids"] = torch.arange(len(positions))[None]
        if f"{encoder}.cls.predictions.bias" in official:
            for copy, original in _DUPLICATES.items():
                out[f"{encoder}.{copy}"] = official[f"{encoder}.{original.format(bert=bert)}"]
    return out


def _shape(name: str, tensor: Tensor) -> Tensor:
    if name in ("queue.image_KE", "queue.caption_KE"):
        return tensor.T.contiguous()
    return tensor.reshape(-1) if name == "queue.identity_K" else tensor


def _unshape(name: str, tensor: Tensor) -> Tensor:
    if name in ("queue.image_KE", "queue.caption_KE"):
        return tensor.T
    return tensor[None] if name == "queue.identity_K" else tensor


def stored_twice(state: Mapping[str, Tensor]) -> list[str]:
    """Keys that repeat another, each checked against it, or number positions. ValueError: one has two values."""
    found = [f"{encoder}.{bert}embeddings.position_ids" for encoder in _TEXT_ENCODERS for bert in ("", "bert.")]
    found = [key for key in found if key in state]
    for encoder in _TEXT_ENCODERS:
        bert = "bert." if any(key.startswith(f"{encoder}.bert.") for key in state) else ""
        for ending, original in _DUPLICATES.items():
            key, source = f"{encoder}.{ending}", f"{encoder}.{original.format(bert=bert)}"
            if key not in state or source not in state:
                continue
            if not torch.equal(state[key], state[source]):
                raise ValueError(
                    f"{key} differs from {source}, expected the same tensor stored twice: this word head has an output"
                    " matrix of its own, which ours has not; use a file that ties them"
                )
            found.append(key)
    return found
