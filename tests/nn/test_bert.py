"""BERT on packed sequences gives each sequence what it gets alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_encoders import shaken, tiny_bert
from torch import Tensor

from tbps.nn.bert import Bert, BertLayer, WordHead
from tbps.nn.packing import Layout, Packing, lay_out

CPU = torch.device("cpu")
TOKENS = [5, 1, 8, 3, 8, 2]
IMAGE = [2, 0, 2, 1, 0, 2]


def captions() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(1, 30, (length,), generator=generator) for length in TOKENS]


def images() -> Tensor:
    return torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(2))


def packed(layout: Layout, rows: list[Tensor]) -> Tensor:
    return torch.stack([rows[s][position] for s, position in zip(layout.sequence_N, layout.position_N, strict=True)])


def unpacked(packing: Packing, hidden_ND: Tensor, rows: list[Tensor]) -> list[Tensor]:
    return [hidden_ND[packing.grid_SL[number, : len(row)]] for number, row in enumerate(rows)]


def text_states(bert: Bert, rows: list[Tensor], group: list[int] | None = None) -> list[Tensor]:
    layout = lay_out([len(row) for row in rows], group=group)
    packing = layout.to(CPU)
    return unpacked(packing, bert.encode_text(bert.embed(packed(layout, rows), packing), packing), rows)


def cross_states(
    bert: Bert, rows: list[Tensor], image_of: list[int], image_IPD: Tensor, group: list[int] | None = None
) -> list[Tensor]:
    layout = lay_out([len(row) for row in rows], image=image_of, num_images=len(image_IPD), group=group)
    packing = layout.to(CPU)
    if bert.full_cross_attention:
        x_ND = bert.embed(packed(layout, rows), packing)
    else:
        x_ND = packed(layout, text_states(bert, rows, group))
    return unpacked(packing, bert.encode_cross(x_ND, packing, image_IPD), rows)


def test_text_encoder_equals_captions_one_by_one() -> None:
    bert = tiny_bert()
    for row, together in zip(captions(), text_states(bert, captions()), strict=True):
        (alone,) = text_states(bert, [row])
        assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("full", [False, True])
def test_class_attention_is_the_first_row_of_a_whole_map(full: bool) -> None:
    bert = tiny_bert(full_cross_attention=full)
    rows = captions()
    packing = lay_out([len(row) for row in rows]).to(CPU)
    embedded = bert.embed(torch.cat(rows), packing)
    hidden, attention_KSL = bert.encode_text_with_class_attention(embedded, packing)
    assert torch.equal(hidden, bert.encode_text(embedded, packing)) and not attention_KSL.requires_grad
    assert attention_KSL.shape == (2, len(rows), max(TOKENS))
    for number, row in enumerate(rows):
        alone = lay_out([len(row)]).to(CPU)
        x_LD = bert.embed(row, alone)
        for layer, found_SL in zip(bert.layers[:2], attention_KSL, strict=True):
            query, key, _ = layer.self_attention.qkv(x_LD).view(len(row), 3, 2, 8).unbind(1)  # type: ignore[union-attr]
            maps = [(query[:, head] @ key[:, head].T / 8**0.5).softmax(-1) for head in range(2)]
            assert torch.allclose(found_SL[number, : len(row)], (maps[0] + maps[1])[0] / 2, atol=1e-5)
            assert not found_SL[number, len(row) :].any()
            x_LD = layer(x_LD, alone, None)


@pytest.mark.parametrize("full", [False, True])
def test_cross_encoder_equals_pairs_one_by_one(full: bool) -> None:
    bert = tiny_bert(full_cross_attention=full)
    together = cross_states(bert, captions(), IMAGE, images())
    for number, row in enumerate(captions()):
        (alone,) = cross_states(bert, [row], [0], images()[IMAGE[number]][None])
        assert torch.allclose(together[number], alone, atol=1e-5), number


def test_image_reaches_the_cross_encoder_only() -> None:
    bert = tiny_bert(full_cross_attention=True)
    other = images().flip(0)
    first, second = (cross_states(bert, captions(), IMAGE, image_IPD) for image_IPD in (images(), other))
    assert not torch.allclose(first[0], second[0], atol=1e-3)
    assert torch.allclose(first[3], second[3])  # image 1 stayed where it was


def test_computed_padding_does_not_reach_real_tokens() -> None:
    bert = tiny_bert()
    rows = captions()
    layout = lay_out([8] * 6, keys=TOKENS)
    packing = layout.to(CPU)
    padded = torch.cat([F.pad(row, (0, 8 - len(row))) for row in rows])
    hidden = bert.encode_text(bert.embed(padded, packing), packing).view(6, 8, -1)
    for number, alone in enumerate(text_states(bert, rows)):
        assert torch.allclose(hidden[number, : TOKENS[number]], alone, atol=1e-5)


def test_self_attention_of_the_first_row_alone() -> None:
    bert = tiny_bert()
    packing = lay_out(TOKENS).to(CPU)
    x_ND = torch.randn(sum(TOKENS), 16)
    layer = bert.layers[0]
    assert isinstance(layer, BertLayer)
    attention = layer.self_attention
    everything = attention(x_ND, packing)
    assert torch.allclose(attention(x_ND, packing, only_first=True), everything[packing.first_S], atol=1e-6)


@pytest.mark.parametrize("full", [False, True])
def test_activation_checkpointing_changes_nothing(full: bool) -> None:
    outcomes = []
    for on in (False, True):
        bert = tiny_bert(full_cross_attention=full)
        bert.checkpointing = on
        loss = torch.cat(cross_states(bert, captions(), IMAGE, images())).square().sum()
        loss.backward()
        outcomes.append((loss, [parameter.grad for parameter in bert.parameters()]))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    for plain, recomputed in zip(outcomes[0][1], outcomes[1][1], strict=True):
        assert plain is not None and recomputed is not None
        assert torch.equal(plain, recomputed)


def test_checkpointing_keeps_less_for_backward() -> None:
    kept = []
    for on in (False, True):
        bert = tiny_bert()
        bert.checkpointing = on
        sizes: list[int] = []

        def remember(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            cross_states(bert, captions(), IMAGE, images())
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


GROUPS = {3: ([1, 3, 4], [0, 1], slice(0, 2)), 4: ([0, 2, 5], [2], slice(2, 3))}
"""By group: its captions, its images among all, as a slice."""


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_a_group_loses_the_same_units_whatever_is_computed_beside_it(full: bool, checkpointing: bool) -> None:
    bert = tiny_bert(full_cross_attention=full, dropout=0.3)
    group = [4, 3, 4, 3, 3, 4]
    torch.manual_seed(5)
    together = cross_states(bert, captions(), IMAGE, images(), group)
    torch.cat(together).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in bert.named_parameters()}
    bert.zero_grad()
    bert.checkpointing = checkpointing
    for number, (rows, shown, part) in GROUPS.items():
        torch.manual_seed(5)
        image_of = [shown.index(IMAGE[row]) for row in rows]
        alone = cross_states(bert, [captions()[row] for row in rows], image_of, images()[part], [number] * len(rows))
        for row, found in zip(rows, alone, strict=True):
            assert torch.allclose(found, together[row], atol=1e-5), row
        torch.rand(3)  # backward must not count on the generator's state
        torch.cat(alone).square().sum().backward()
    for name, parameter in bert.named_parameters():
        expected = gradients[name]
        assert parameter.grad is not None and expected is not None, name
        assert torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-4), name


def test_every_pass_loses_units_of_its_own() -> None:
    bert = tiny_bert(dropout=0.3)
    first, second = (torch.cat(text_states(bert, captions())) for _ in range(2))
    assert not torch.isclose(first, second, atol=1e-3).all(1).any()


def test_dropout_acts_in_training_only() -> None:
    bert = tiny_bert(dropout=0.5)
    packing = lay_out(TOKENS).to(CPU)
    ids = torch.cat(captions())
    assert not torch.equal(bert.train().embed(ids, packing), bert.embed(ids, packing))
    assert torch.equal(bert.eval().embed(ids, packing), bert.embed(ids, packing))


def test_fresh_padding_word_is_zero() -> None:
    bert = Bert(
        width=8,
        layers=1,
        heads=1,
        intermediate=8,
        vocabulary_size=5,
        max_positions=4,
        fusion_layer=1,
        full_cross_attention=False,
        image_width=8,
        dropout=0.0,
    )
    assert torch.equal(bert.words.weight[0], torch.zeros(8))
    assert bert.words.weight[1:].abs().sum() > 0


def test_word_head_scores_against_the_given_embeddings() -> None:
    head = shaken(lambda: WordHead(width=4, vocabulary_size=6))
    hidden, words = torch.randn(3, 4), torch.randn(6, 4)
    inner, found = head.norm(F.gelu(head.dense(hidden))), head(hidden, words)
    for m in range(3):
        for v in range(6):
            assert torch.allclose(found[m, v], inner[m] @ words[v] + head.bias[v], atol=1e-5)
