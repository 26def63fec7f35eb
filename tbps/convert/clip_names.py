"""Names of CLIP's tensors: OpenAI's and open_clip's, Hugging Face's, and ours, in both directions.

Two things differ beside names: query, key and value are one matrix there (`in_proj`, joined along rows) and three layers
here; the two final projections are (width, features) matrices there and linear layers here, whose weights are transposed.
Prefixes: `visual.` is the image tower; the text tower has none, or `encode_text.` (TBPS-CLIP) or `text.` (open_clip's
CustomTextCLIP); the whole model may lie under `base_model.` (IRRA).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from tbps.convert.naming import Names, Row, rename

TOWERS = "towers."
IMAGE, TEXT = f"{TOWERS}image.", f"{TOWERS}text."
"""Where a method's towers lie."""
POSITIONS = f"{IMAGE}positions"
"""The table that depends on the size of images: one row for [CLS], then one per patch."""
LOGIT_SCALE = "logit_scale"
NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "visual.attn_mask", "text.attn_mask")
"""Numbers and masks that some files hold beside the weights."""

_FUSED = re.compile(r"(?P<front>.*\.|)in_proj_(?P<part>weight|bias)")
_SPLIT = re.compile(r"(?P<front>.*\.|)(?P<which>[qkv])_proj\.(?P<part>weight|bias)")
_TURNED = ("visual.proj", "text_projection")


def attention_rows(ours: str, foreign: str) -> tuple[Row, ...]:
    """An attention layer `ours` (query, key, value, out) and nn.MultiheadAttention `foreign`, once `split_fused`."""
    parts = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj"))
    return tuple((f"{ours}.{our}.*", (f"{foreign}.{their}.*",)) for our, their in parts)


def block_rows(ours: str, foreign: str) -> tuple[Row, ...]:
    """The blocks `ours` of tbps/nn/clip_block.py, as OpenAI names them under `foreign`."""
    parts = (("norm1", "ln_1"), ("norm2", "ln_2"), ("fc1", "mlp.c_fc"), ("fc2", "mlp.c_proj"))
    rows = tuple((f"{ours}.#.{our}.*", (f"{foreign}.resblocks.#.{their}.*",)) for our, their in parts)
    return (*rows, *attention_rows(f"{ours}.#.attention", f"{foreign}.resblocks.#.attn"))


ROWS: tuple[Row, ...] = (
    (f"{IMAGE}cls_token", ("visual.class_embedding",)),
    (f"{IMAGE}positions", ("visual.positional_embedding",)),
    (f"{IMAGE}patch_embed.weight", ("visual.conv1.weight",)),
    (f"{IMAGE}norm_pre.*", ("visual.ln_pre.*",)),
    (f"{IMAGE}norm_post.*", ("visual.ln_post.*",)),
    (f"{IMAGE}projection.weight", ("visual.proj",)),
    *block_rows(f"{IMAGE}blocks", "visual.transformer"),
    (f"{TEXT}words.weight", ("token_embedding.weight",)),
    (f"{TEXT}positions.weight", ("positional_embedding",)),
    (f"{TEXT}norm_post.*", ("ln_final.*",)),
    (f"{TEXT}projection.weight", ("text_projection",)),
    *block_rows(f"{TEXT}blocks", "transformer"),
    (LOGIT_SCALE, (LOGIT_SCALE,)),
)
"""OpenAI's and open_clip's names, after `split_fused`."""
_NAMES = Names(ROWS)


def _hugging_face_rows() -> tuple[Row, ...]:
    rows: list[Row] = [
        (f"{IMAGE}cls_token", ("vision_model.embeddings.class_embedding",)),
        (f"{IMAGE}positions", ("vision_model.embeddings.position_embedding.weight",)),
        (f"{IMAGE}patch_embed.weight", ("vision_model.embeddings.patch_embedding.weight",)),
        (f"{IMAGE}norm_pre.*", ("vision_model.pre_layrnorm.*",)),  # their spelling
        (f"{IMAGE}norm_post.*", ("vision_model.post_layernorm.*",)),
        (f"{IMAGE}projection.weight", ("visual_projection.weight",)),
        (f"{TEXT}words.weight", ("text_model.embeddings.token_embedding.weight",)),
        (f"{TEXT}positions.weight", ("text_model.embeddings.position_embedding.weight",)),
        (f"{TEXT}norm_post.*", ("text_model.final_layer_norm.*",)),
        (f"{TEXT}projection.weight", ("text_projection.weight",)),
        (LOGIT_SCALE, (LOGIT_SCALE,)),
    ]
    for ours, theirs in ((IMAGE, "vision_model"), (TEXT, "text_model")):
        block, layer = f"{ours}blocks.#", f"{theirs}.encoder.layers.#"
        rows += attention_rows(f"{block}.attention", f"{layer}.self_attn")
        parts = (("norm1", "layer_norm1"), ("norm2", "layer_norm2"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2"))
        rows += [(f"{block}.{our}.*", (f"{layer}.{their}.*",)) for our, their in parts]
    return tuple(rows)


_HUGGING_FACE = Names(_hugging_face_rows())


def from_clip(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """OpenAI's or open_clip's tensors under our names, and the keys without a place."""
    kept = {_without_prefix(key): tensor for key, tensor in state.items() if key not in NO_WEIGHTS}
    return rename(split_fused({key: turned(key, tensor) for key, tensor in kept.items()}), _NAMES.ours)


def from_hugging_face(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a transformers.CLIPModel under our names, and the keys without a place."""
    kept = {key: tensor for key, tensor in state.items() if not key.endswith("position_ids")}
    return rename(kept, _HUGGING_FACE.ours)


def to_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our towers under OpenAI's and open_clip's names; what has none there is left out."""
    named = {foreign: tensor for name, tensor in tensors.items() for foreign in _NAMES.foreign(name)}
    return join_fused({key: turned(key, tensor) for key, tensor in named.items()})


def has_official_name(name: str) -> bool:
    """Whether `to_clip` knows a tensor of ours."""
    return bool(_NAMES.foreign(name))


def split_fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`X.in_proj_weight` as `X.q_proj.weight`, `X.k_proj.weight` and `X.v_proj.weight`; biases alike."""
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if match := _FUSED.fullmatch(key):
            names = [f"{match['front']}{which}_proj.{match['part']}" for which in "qkv"]
            out |= dict(zip(names, tensor.chunk(3), strict=True))
        else:
            out[key] = tensor
    return out


def join_fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `split_fused`."""
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if match := _SPLIT.fullmatch(key):
            names = [f"{match['front']}{which}_proj.{match['part']}" for which in "qkv"]
            out[f"{match['front']}in_proj_{match['part']}"] = torch.cat([state[name] for name in names])
        else:
            out[key] = tensor
    return out


def turned(key: str, tensor: Tensor) -> Tensor:
    """A final projection as a linear layer has it, or back; every other tensor as it is. `key`: OpenAI's."""
    return tensor.T if key in _TURNED else tensor


def _without_prefix(key: str) -> str:
    for prefix in ("encode_text.", "text."):
        key = key.removeprefix(prefix)
    return key


def missing_names(names: Iterable[str]) -> list[str]:
    """Names of two whole towers that are not there: every block up to the last one found must be whole."""
    found = set(names)
    missing = []
    for template, _ in ROWS:
        tower = IMAGE if template.startswith(IMAGE) else TEXT
        numbers = [int(match[1]) for name in found if (match := re.match(rf"{re.escape(tower)}blocks\.(\d+)\.", name))]
        for number in range(max(numbers, default=0) + 1) if ".#." in template else (0,):
            name = template.replace("#", str(number))
            endings = ("weight", "bias") if name.endswith("*") else ("",)
            missing += [name.removesuffix("*") + ending for ending in endings]
    return [name for name in missing if name not in found and name != LOGIT_SCALE]
