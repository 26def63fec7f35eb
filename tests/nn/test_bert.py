"""BERT on packed sequences gives each sequence what it gets alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_encoders import shaken, tiny_bert
from torch import Tensor

from tbps.nn.bert import Bert, BertLayer, SelfAttention, WordHead
from tbps.nn.dropout import Groups, Site, drop
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


READ = [(0, 0), (0, 3), (2, 0), (2, 7), (3, 1), (5, 0)]
"""Sequence and position of tokens that are read: sequences 1 and 4 are not."""


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_the_last_layer_computes_what_is_read_alone(full: bool, checkpointing: bool) -> None:
    """The same states and gradients; no other row reaches the last layer's cross-attention and feed-forward."""
    outcomes: list[tuple[Tensor, dict[str, Tensor], Tensor]] = []
    widths: list[int] = []
    for some in (False, True):
        bert = tiny_bert(full_cross_attention=full)
        bert.checkpointing = checkpointing
        last = bert.layers[-1]
        assert isinstance(last, BertLayer)
        last.fc1.register_forward_hook(lambda _, inputs, output: widths.append(len(output)))
        layout = lay_out(TOKENS, image=IMAGE, num_images=3, group=[4, 3, 4, 3, 3, 4])
        sequence, position = np.array(READ).T
        rows = layout.rows(sequence, position)
        packing = layout.to(CPU, read=rows if some else None)
        x_ND = bert.embed(packed(layout, captions()), packing)
        image_IPD = images().sort(0).values.requires_grad_()
        hidden = bert.encode_cross(x_ND, packing, image_IPD)
        found = hidden if some else hidden[torch.from_numpy(np.sort(rows))]
        (found * torch.arange(1.0, 17)).square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in bert.named_parameters() if parameter.grad is not None}
        assert image_IPD.grad is not None
        outcomes.append((found.detach(), gradients, image_IPD.grad))
    assert set(widths) == {sum(TOKENS), len(READ)}
    (whole, expected, image_expected), (some_states, found_gradients, image_found) = outcomes
    assert torch.allclose(some_states, whole, atol=1e-5) and expected.keys() == found_gradients.keys()
    assert torch.allclose(image_found, image_expected, rtol=1e-4, atol=1e-4)
    for name, gradient in expected.items():
        assert torch.allclose(found_gradients[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max())), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_parts_beside_each_other_share_images_and_nothing_else(checkpointing: bool) -> None:
    bert, rows = tiny_bert(), captions()
    bert.checkpointing = checkpointing
    image_IPD, projected = images().requires_grad_(), list[int]()
    for layer in bert.layers[bert.first_cross_layer :]:
        assert isinstance(layer, BertLayer) and layer.cross_attention is not None
        layer.cross_attention.key_value.register_forward_hook(lambda *_: projected.append(1))
    states, packings = [], []
    for part in (slice(0, 4), slice(4, 6)):
        layout = lay_out(TOKENS[part], image=IMAGE[part], num_images=3)
        states.append(packed(layout, text_states(bert, rows[part])).detach().requires_grad_())
        packings.append(layout.to(CPU))
    together, record = bert.encode_cross_apart(states, packings, image_IPD, record_layer=1)
    assert record is not None and len(record.context_RD) == len(states[1])
    assert len(projected) == len(bert.layers) - bert.first_cross_layer  # once a layer
    for found, x_ND, packing in zip(together, states, packings, strict=True):
        assert torch.equal(found, bert.encode_cross(x_ND, packing, image_IPD))
    own, other = torch.autograd.grad(together[1].sum(), [states[1], states[0]], retain_graph=True, allow_unused=True)
    assert own is not None and own.any() and other is None
    (gradient,) = torch.autograd.grad(sum(x.square().sum() for x in together), image_IPD)
    assert gradient.any()


def test_the_text_encoder_of_class_tokens_alone() -> None:
    bert = tiny_bert()
    layout = lay_out(TOKENS)
    packing = layout.to(CPU, read=layout.start_S)
    x_ND = bert.embed(torch.cat(captions()), packing)
    found = bert.encode_text(x_ND, packing, rows=packing.read)
    assert len(found) == len(TOKENS)
    assert torch.allclose(found[packing.read.first_S], bert.encode_text(x_ND, packing)[packing.first_S], atol=1e-6)


def test_buckets_of_a_group_lose_units_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    bert = tiny_bert(dropout=0.4)
    packing = lay_out([4] * 40 + [30] * 40).to(CPU)
    assert [bucket.number for bucket in packing.all.buckets] == [0, 1]
    kept = []

    def remember(x: Tensor, site: Site, groups: Groups) -> Tensor:
        kept.append(drop(torch.ones_like(x), site, groups).flatten()[:500])
        return drop(x, site, groups)

    monkeypatch.setattr("tbps.nn.attention.drop", remember)
    attention = bert.layers[0].self_attention
    assert isinstance(attention, SelfAttention)
    attention(torch.ones(40 * 34, 16), packing)
    assert len(kept) == 2 and not torch.equal(*kept)


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
