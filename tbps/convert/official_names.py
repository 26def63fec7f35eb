"""How the official ALBEF, RaSa and MARS checkpoints name what we have.

Keys of the momentum encoder carry `_m` behind their first part (`visual_encoder_m.cls_token`). Text encoder keys carry the
level `bert.` in RaSa, MARS and ALBEF.pth, and not in ALBEF's fine-tuned files.
"""

from __future__ import annotations

import re
from dataclasses import replace

from tbps.convert.naming import Names, Piece, Row

_SELF, _CROSS = "text_encoder.encoder.layer.#.attention", "text_encoder.encoder.layer.#.crossattention"
_LAYER = "text_encoder.encoder.layer.#"

ENCODER_PARTS: tuple[Row, ...] = (
    ("image_encoder.cls_token", ("visual_encoder.cls_token",)),
    ("image_encoder.positions", ("visual_encoder.pos_embed",)),
    ("image_encoder.patch_embed.*", ("visual_encoder.patch_embed.proj.*",)),
    ("image_encoder.blocks.#.norm1.*", ("visual_encoder.blocks.#.norm1.*",)),
    ("image_encoder.blocks.#.qkv.*", ("visual_encoder.blocks.#.attn.qkv.*",)),
    ("image_encoder.blocks.#.out.*", ("visual_encoder.blocks.#.attn.proj.*",)),
    ("image_encoder.blocks.#.norm2.*", ("visual_encoder.blocks.#.norm2.*",)),
    ("image_encoder.blocks.#.fc1.*", ("visual_encoder.blocks.#.mlp.fc1.*",)),
    ("image_encoder.blocks.#.fc2.*", ("visual_encoder.blocks.#.mlp.fc2.*",)),
    ("image_encoder.norm.*", ("visual_encoder.norm.*",)),
    ("image_projection.*", ("vision_proj.*",)),
    ("text_projection.*", ("text_proj.*",)),
    ("word_head.bias", ("text_encoder.cls.predictions.bias",)),
    ("word_head.dense.*", ("text_encoder.cls.predictions.transform.dense.*",)),
    ("word_head.norm.*", ("text_encoder.cls.predictions.transform.LayerNorm.*",)),
    ("text_encoder.words.weight", ("text_encoder.embeddings.word_embeddings.weight",)),
    ("text_encoder.positions.weight", ("text_encoder.embeddings.position_embeddings.weight",)),
    ("text_encoder.token_type", ("text_encoder.embeddings.token_type_embeddings.weight",)),
    ("text_encoder.norm.*", ("text_encoder.embeddings.LayerNorm.*",)),
    (
        "text_encoder.layers.#.self_attention.qkv.*",
        (f"{_SELF}.self.query.*", f"{_SELF}.self.key.*", f"{_SELF}.self.value.*"),
    ),
    ("text_encoder.layers.#.self_attention.out.*", (f"{_SELF}.output.dense.*",)),
    ("text_encoder.layers.#.self_attention.norm.*", (f"{_SELF}.output.LayerNorm.*",)),
    ("text_encoder.layers.#.cross_attention.query.*", (f"{_CROSS}.self.query.*",)),
    ("text_encoder.layers.#.cross_attention.key_value.*", (f"{_CROSS}.self.key.*", f"{_CROSS}.self.value.*")),
    ("text_encoder.layers.#.cross_attention.out.*", (f"{_CROSS}.output.dense.*",)),
    ("text_encoder.layers.#.cross_attention.norm.*", (f"{_CROSS}.output.LayerNorm.*",)),
    ("text_encoder.layers.#.fc1.*", (f"{_LAYER}.intermediate.dense.*",)),
    ("text_encoder.layers.#.fc2.*", (f"{_LAYER}.output.dense.*",)),
    ("text_encoder.layers.#.norm.*", (f"{_LAYER}.output.LayerNorm.*",)),
)
"""Parts of an encoder pair, online or momentum; the level `bert.` left out."""
_DECODER_ATTENTION: tuple[Row, ...] = tuple(
    (f"mae_decoder.blocks.#.{ours}_attention.{part}.*", (f"visual_decoder.blocks.#.{official}.{official_part}.*",))
    for ours, official in (("self", "attn1"), ("cross", "attn2"))
    for part, official_part in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("out", "to_out.0"))
)
_TOP: tuple[Row, ...] = (
    ("temperature", ("temp",)),
    ("itm_head.*", ("itm_head.*",)),
    ("prd_head.*", ("prd_head.*",)),
    ("mrtd_head.*", ("mrtd_head.*",)),
    ("mae_decoder.mask_token", ("mask_token",)),
    ("mae_decoder.positions", ("visual_decoder_pos_embed",)),
    ("mae_decoder.pixels.*", ("decoder_pred.*",)),
    ("mae_decoder.blocks.#.norm#.*", ("visual_decoder.blocks.#.norm#.*",)),
    ("mae_decoder.blocks.#.fc1.*", ("visual_decoder.blocks.#.ff.net.0.l.*",)),
    ("mae_decoder.blocks.#.fc2.*", ("visual_decoder.blocks.#.ff.net.2.*",)),
    *_DECODER_ATTENTION,
    ("queue.image_KE", ("image_queue",)),
    ("queue.caption_KE", ("text_queue",)),
    ("queue.identity_K", ("idx_queue",)),
    ("queue.pointer", ("queue_ptr",)),
)

_ENCODER_NAMES, _TOP_NAMES = Names(ENCODER_PARTS), Names(_TOP)
_ENCODER_KEY = re.compile(r"(visual_encoder|text_encoder|vision_proj|text_proj)(_m)?\.(?:bert\.)?(.+)")


def official_names(name: str, *, bert_level: bool = True) -> tuple[str, ...]:
    """Official names of our tensor `name`, in the order in which they are joined; () for a tensor of ours alone."""
    for copy, suffix in (("online.", ""), ("momentum_encoder.", "_m")):
        if name.startswith(copy):
            keys = _ENCODER_NAMES.foreign(name.removeprefix(copy))
            return tuple(_official_key(key, suffix=suffix, bert_level=bert_level) for key in keys)
    return _TOP_NAMES.foreign(name)


def our_name(key: str) -> Piece | None:
    """What an official tensor is to us, with or without the level `bert.`; None for a key we have no place for."""
    match = _ENCODER_KEY.fullmatch(key)
    if not match:
        return _TOP_NAMES.ours(key)
    encoder, momentum, rest = match.groups()
    piece = _ENCODER_NAMES.ours(f"{encoder}.{rest}")
    return piece and replace(piece, name=f"{'momentum_encoder' if momentum else 'online'}.{piece.name}")


def _official_key(key: str, *, suffix: str, bert_level: bool) -> str:
    encoder, _, rest = key.partition(".")
    bert = "bert." if bert_level and rest.startswith(("embeddings.", "encoder.")) and encoder == "text_encoder" else ""
    return f"{encoder}{suffix}.{bert}{rest}"
