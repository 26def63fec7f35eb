from __future__ import annotations

import torch

from tbps.convert.naming import Names, Piece, rename
from tbps.convert.official_names import official_names, our_name

NAMES = Names(
    [("blocks.#.qkv.*", ("h.#.q.*", "h.#.k.*", "h.#.v.*")), ("blocks.#.norm#.*", ("h.#.ln_#.*",)), ("cls", ("c",))]
)


def test_a_table_reads_both_ways() -> None:
    assert NAMES.foreign("blocks.11.qkv.bias") == ("h.11.q.bias", "h.11.k.bias", "h.11.v.bias")
    assert NAMES.ours("h.11.k.bias") == Piece(name="blocks.11.qkv.bias", index=1, count=3)
    assert NAMES.foreign("blocks.3.norm2.weight") == ("h.3.ln_2.weight",)
    assert NAMES.ours("h.3.ln_2.weight") == Piece(name="blocks.3.norm2.weight")
    assert NAMES.foreign("blocks.x.qkv.bias") == () and NAMES.ours("h.1.q.scale") is None
    assert NAMES.ours("cc") is None and NAMES.ours("h-1-q-bias") is None  # a dot is a dot


def test_pieces_are_joined_in_the_order_of_the_table_not_of_the_file() -> None:
    state = {f"h.0.{part}.bias": torch.full((2,), float(value)) for value, part in ((2, "v"), (0, "q"), (1, "k"))}
    tensors, unplaced = rename(state, NAMES.ours)
    assert tensors["blocks.0.qkv.bias"].tolist() == [0, 0, 1, 1, 2, 2] and unplaced == []


def test_incomplete_and_unknown_and_second_keys_have_no_place() -> None:
    state = {key: torch.zeros(1) for key in ("h.0.v.bias", "h.0.q.bias", "zebra", "c")}
    tensors, unplaced = rename(state, NAMES.ours)
    assert list(tensors) == ["cls"] and unplaced == ["h.0.q.bias", "h.0.v.bias", "zebra"]
    both = {
        "text_encoder.bert.embeddings.LayerNorm.bias": torch.zeros(1),
        "text_encoder.embeddings.LayerNorm.bias": torch.ones(1),
    }
    tensors, unplaced = rename(both, our_name)
    assert tensors["online.text_encoder.norm.bias"].item() == 0
    assert unplaced == ["text_encoder.embeddings.LayerNorm.bias"]


def test_official_names_of_momentum_encoder_and_bert_level() -> None:
    name = "momentum_encoder.text_encoder.layers.7.cross_attention.key_value.weight"
    start = "text_encoder_m.bert.encoder.layer.7.crossattention.self"
    assert official_names(name) == (f"{start}.key.weight", f"{start}.value.weight")
    assert official_names(name, bert_level=False)[0] == f"{start}.key.weight".replace("bert.", "")
    assert official_names("online.word_head.bias") == ("text_encoder.cls.predictions.bias",)
    assert official_names("attribute_head.weight") == () and official_names("online.nothing") == ()
    assert our_name(f"{start}.value.weight") == Piece(name=name, index=1, count=2)
    assert our_name("text_proj_m.bias") == Piece(name="momentum_encoder.text_projection.bias")
    assert our_name("visual_encoder.head.weight") is None
