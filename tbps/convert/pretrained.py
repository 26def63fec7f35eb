"""BERT and ViT weights, by Hugging Face name or local path, into a method's encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tbps.convert.completeness import check_complete
from tbps.convert.hugging_face import Pretrained, read_pretrained
from tbps.convert.naming import Names, Row, rename
from tbps.convert.official import Converted, from_official
from tbps.convert.swin import load_swin
from tbps.convert.weights import LoadReport, place
from tbps.nn.swin import SwinTransformer

_HEADS = "num_attention_heads"
_OLD, _NEW = "encoder.layer.#.", "layers.#."

# Two rows of a tensor: keys in files (and in transformers before 5), and keys of a module of transformers 5.
_VIT: tuple[Row, ...] = (
    ("cls_token", ("embeddings.cls_token",)),
    ("positions", ("embeddings.position_embeddings",)),
    ("patch_embed.*", ("embeddings.patch_embeddings.projection.*",)),
    ("norm.*", ("layernorm.*",)),
    ("blocks.#.qkv.*", tuple(f"{_OLD}attention.attention.{part}.*" for part in ("query", "key", "value"))),
    ("blocks.#.qkv.*", tuple(f"{_NEW}attention.{part}_proj.*" for part in "qkv")),
    ("blocks.#.out.*", (f"{_OLD}attention.output.dense.*",)),
    ("blocks.#.out.*", (f"{_NEW}attention.o_proj.*",)),
    ("blocks.#.fc1.*", (f"{_OLD}intermediate.dense.*",)),
    ("blocks.#.fc1.*", (f"{_NEW}mlp.fc1.*",)),
    ("blocks.#.fc2.*", (f"{_OLD}output.dense.*",)),
    ("blocks.#.fc2.*", (f"{_NEW}mlp.fc2.*",)),
    ("blocks.#.norm1.*", (f"{_OLD}layernorm_before.*",)),
    ("blocks.#.norm1.*", (f"{_NEW}layernorm_before.*",)),
    ("blocks.#.norm2.*", (f"{_OLD}layernorm_after.*",)),
    ("blocks.#.norm2.*", (f"{_NEW}layernorm_after.*",)),
)
_VIT_NAMES = Names([(f"online.image_encoder.{ours}", foreign) for ours, foreign in _VIT])
_DISTILLATION = ("dist_token", "embeddings.distillation_token")


def load_bert(method: nn.Module, name_or_path: str) -> LoadReport:
    """Place a BERT (bare, with word head or pretraining heads) in the text encoder; cross-attention stays as it is.

    The momentum encoder is made equal. ValueError: nothing readable under that name, another architecture or vocabulary.
    """
    found = read_pretrained(name_or_path)
    converted = from_bert(found.weights.tensors)
    _check_essential(found, converted, "bert", "ViT weights belong in start.vit")
    _check_heads(found, method.online.text_encoder.layers[0].self_attention.heads)  # type: ignore[union-attr, index]
    return _place(method, converted, name_or_path, scope=("online.text_encoder.", "online.word_head."))


def load_vit(method: nn.Module, name_or_path: str) -> LoadReport:
    """Place a ViT (Hugging Face, timm or DeiT naming) in the image encoder, its positions interpolated to our grid; or a
    Swin, where the image encoder is one (tbps/convert/swin.py).

    Classification heads have no place. The momentum encoder is made equal. ValueError as in `load_bert`.
    """
    if isinstance(method.online.image_encoder, SwinTransformer):  # type: ignore[union-attr]
        return load_swin(method, name_or_path)
    found = read_pretrained(name_or_path)
    converted = from_vit(found.weights.tensors)
    _check_essential(found, converted, "vit", "BERT weights belong in start.bert")
    _check_heads(found, method.online.image_encoder.blocks[0].heads)  # type: ignore[union-attr, index]
    return _place(method, converted, name_or_path, scope=("online.image_encoder.",), grid=patch_grid(found.config))


def from_bert(state: Mapping[str, Tensor]) -> Converted:
    """BERT's keys, with or without `bert.`, with `gamma` and `beta` of the first files, under our names."""
    keys = {_official_bert_key(key): key for key in state}
    converted = from_official({official: state[key] for official, key in keys.items()})
    converted.unplaced = sorted(keys[official] for official in converted.unplaced)
    converted.duplicates = sorted(keys[official] for official in converted.duplicates)
    return converted


def from_vit(state: Mapping[str, Tensor]) -> Converted:
    """A ViT's keys in Hugging Face or timm naming, under our names; a distillation token and its position left out."""
    state = {key.removeprefix("vit.").removeprefix("deit."): tensor for key, tensor in state.items()}
    if any(key.startswith("patch_embed.") for key in state):
        converted = from_official({f"visual_encoder.{key}": tensor for key, tensor in state.items()})
        converted.unplaced = [key.removeprefix("visual_encoder.") for key in converted.unplaced]
    else:
        tensors, unplaced = rename(state, _VIT_NAMES.ours)
        converted = Converted(tensors=tensors, unplaced=unplaced)
    positions = converted.tensors.get("online.image_encoder.positions")
    if positions is not None and any(key in state for key in _DISTILLATION):
        # DeiT's distilled files: [CLS], the distillation token, then the patches.
        converted.tensors["online.image_encoder.positions"] = torch.cat([positions[:, :1], positions[:, 2:]], dim=1)
    return converted


def patch_grid(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns of patches that a Hugging Face ViT config tells; None where it does not."""
    image, patch = config.get("image_size"), config.get("patch_size")
    if image is None or patch is None:
        return None
    rows_px, columns_px = image if isinstance(image, list) else (image, image)
    patch_rows, patch_columns = patch if isinstance(patch, list) else (patch, patch)
    return rows_px // patch_rows, columns_px // patch_columns


def _place(
    method: nn.Module, converted: Converted, source: str, *, scope: tuple[str, ...], grid: tuple[int, int] | None = None
) -> LoadReport:
    """Place the tensors of one encoder; what is missing elsewhere is no news."""
    tensors = {name: tensor for name, tensor in converted.tensors.items() if name.startswith(scope)}
    report = place(method, tensors, source=source, old_grid=grid)
    report.missing = [name for name in report.missing if name.startswith(scope)]
    report.unplaced += converted.unplaced + sorted(set(converted.tensors) - set(tensors))
    return report


_TELLING = {"bert": ("BERT", "online.text_encoder.words.weight"), "vit": ("ViT", "online.image_encoder.positions")}
"""Layers of BERT and ViT have the same names and, in their base sizes, shapes: one would be placed in the other."""


def _check_essential(found: Pretrained, converted: Converted, kind: str, advice: str) -> None:
    name, telling = _TELLING[kind]
    if telling not in converted.tensors:
        keys = ", ".join(list(found.weights.tensors)[:3])
        raise ValueError(f"{found.weights.source}: no {name} weights (found {keys}, ...), expected a {name}; {advice}")
    check_complete(converted.tensors, kind, found.weights.source)


def _check_heads(found: Pretrained, heads: int) -> None:
    """Shapes do not tell the number of attention heads, and a wrong one computes nonsense."""
    if found.config.get(_HEADS, heads) != heads:
        raise ValueError(
            f"{found.weights.source}: its config says {found.config[_HEADS]} attention heads, expected {heads}; choose the"
            " sizes that the file was made with"
        )


def _official_bert_key(key: str) -> str:
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if key.endswith(f"LayerNorm{old}"):
            key = key.removesuffix(old) + new
    return f"text_encoder.{key}"
