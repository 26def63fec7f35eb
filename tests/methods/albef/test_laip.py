"""LAIP against loops written from the paper, one phrase at a time; its stages, the rows of its Table IV, edges."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from naive_laip import CROSS_LAYERS, DEEP, cross_states, looks_of, naive_local_losses, phrases_of, score_of, text_states
from tiny_methods import (
    ALBEF,
    BERT,
    GROUP_PAIRS,
    LAIP,
    build,
    captions_of,
    gradients,
    make_step,
    total_loss,
    with_fixed_choices,
)
from torch import Tensor

from tbps.config.methods.laip import Laip, LaipWeights
from tbps.data.batch import Batch, Draws
from tbps.objectives.bidirectional_attention import patch_weights
from tbps.objectives.masking import token_mask
from tbps.text.captions import CaptionEncoder, make_captions
from tbps.text.chunks import BuiltinChunker
from tbps.text.word_pieces import open_word_pieces, train_vocabulary

LOCAL = LaipWeights(itc=0.0, triplet=0.0)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_backward_attention_is_the_finite_difference_of_the_true_score(layer: int) -> None:
    method = build(DEEP)
    batch, draws = make_step(DEEP)
    forward_MP, backward_MP = looks_of(method, batch, draws, layer)
    exact = copy.deepcopy(method).double()
    heads = method.online.text_encoder.layers[-1].cross_attention.heads
    tokens = exact.online.image_encoder(batch.image_BCHW.double()).detach()
    phrases = phrases_of(batch, draws)
    assert len(phrases) == len(forward_MP) > 8
    for number, phrase in enumerate(phrases):
        image_PD = tokens[phrase.caption]
        with torch.no_grad():
            _, _, attention = score_of(exact, phrase, image_PD, layer=layer)
            assert torch.allclose(forward_MP[number].double(), attention[:, 0].mean(0), atol=1e-6)
            for token in (0, number % len(image_PD), len(image_PD) - 1):
                slopes = []
                for head in range(heads):
                    bump = torch.zeros(heads, len(image_PD), dtype=torch.float64)
                    bump[head, token] = 1e-4
                    above, below = (score_of(exact, phrase, image_PD, layer=layer, bump=b)[1] for b in (bump, -bump))
                    slopes.append((above - below).item() / 2e-4)
                expected = sum(slopes) / heads
                assert backward_MP[number, token].item() == pytest.approx(expected, rel=1e-3, abs=1e-5)
                assert expected != 0


def test_backward_attention_is_exactly_zero_at_the_last_cross_layer() -> None:
    method = build(DEEP)
    batch, draws = make_step(DEEP)
    assert not looks_of(method, batch, draws, CROSS_LAYERS)[1].any()
    assert (looks_of(method, batch, draws, CROSS_LAYERS - 1)[1] != 0).all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"combination": "sum"}, {"attention": "forward"}, {"attention": "backward"}, {"attention_layer": 3}],
    ids=["both", "sum", "forward", "backward", "layer 3"],
)
def test_local_losses_and_gradients_equal_naive_loops(changes: dict[str, Any]) -> None:
    config = replace(DEEP, weights=LOCAL, **changes)
    method, other = build(config), build(config)
    batch, draws = make_step(DEEP)
    (losses, numbers), expected = method(batch, draws), naive_local_losses(other, batch, draws, config)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-5), name
    assert numbers["phrases"].item() == pytest.approx(len(phrases_of(batch, draws)) / batch.num_pairs)
    (losses["mpm"] + 2 * losses["bidir"]).backward()
    (expected["mpm"] + 2 * expected["bidir"]).backward()
    for (name, parameter), momentum_encoder in zip(method.named_parameters(), other.parameters()):
        if momentum_encoder.grad is not None:
            bound = 1e-4 * momentum_encoder.grad.abs().max().clamp(min=1e-2)
            assert (parameter.grad - momentum_encoder.grad).abs().max() <= bound, name


def test_the_triplet_is_on_the_matched_logits_of_the_matching_rows() -> None:
    method = build(replace(LAIP, weights=LaipWeights(bidir=0, mpm=0)))
    batch, draws = make_step(replace(LAIP, weights=LaipWeights(bidir=0, mpm=0)))
    draws = with_fixed_choices(batch, draws)
    tokens = method.online.image_encoder(batch.image_BCHW)
    ids = [batch.paired.token_ids_BL[row, :length].tolist() for row, length in enumerate(batch.paired.lengths)]

    def matched(caption: int, image: int) -> float:
        states, _ = cross_states(method, text_states(method, ids[caption]), tokens[image], layer=1)
        return float(method.itm_head(states[0])[1].detach())

    expected = [
        max(0, 0.6 - matched(row, row) + matched(row, other)) + max(0, 0.6 - matched(row, row) + matched(other, row))
        for row, other in enumerate(draws.recorded["negative_image"].tolist())
    ]
    assert method(batch, draws)[0]["triplet"].item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_masked_captions_are_masked_words_with_hard_labels() -> None:
    method = build(replace(LAIP, weights=LaipWeights(mpm=0, bidir=0, mlm=1)))
    batch, draws = make_step(replace(LAIP, weights=LaipWeights(mpm=0, bidir=0, mlm=1)), longest=30)
    mask = token_mask(draws["mlm"], probability=0.15, words=range(BERT.vocabulary_size))
    tokens = method.online.image_encoder(batch.image_BCHW)
    values: list[list[float]] = [[], []]
    for row, length in enumerate(batch.own.lengths):
        ids = batch.own.token_ids_BL[row, :length].tolist()
        chosen = [place for place in range(1, length) if mask.select_BL[row, place]]
        shown = list(ids)
        for place in chosen:
            if mask.mask_BL[row, place]:
                shown[place] = BERT.mask_id
            elif mask.random_BL[row, place]:
                shown[place] = int(mask.word_BL[row, place])
        states, _ = cross_states(method, text_states(method, shown), tokens[row], layer=1)
        logits = method.online.word_logits(states).log_softmax(1)
        values[row // GROUP_PAIRS] += [-float(logits[place, ids[place]].detach()) for place in chosen]
    assert all(len(group) > 3 for group in values)
    expected = sum(sum(group) / len(group) for group in values) / 2
    assert method(batch, draws)[0]["mlm"].item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_the_words_goes_back_through_masked_phrases_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    method = build(DEEP)
    batch, draws = make_step(DEEP)
    sizes: list[tuple[int, ...]] = []
    real = torch.autograd.grad

    def remember(outputs: Any, inputs: Any, **settings: Any) -> Any:
        sizes.append(tuple(inputs.shape))
        return real(outputs, inputs, **settings)

    monkeypatch.setattr(torch.autograd, "grad", remember)
    method(batch, draws)
    assert sizes == [(sum(len(phrase.ids) for phrase in phrases_of(batch, draws)), BERT.width)]


# -- stages and rows ----------------------------------------------------------------------------------------------------

ROWS: dict[str, tuple[dict[str, float], Literal["both", "forward", "backward"]]] = {
    "1 and 2: baseline": ({"triplet": 0, "bidir": 0, "mpm": 0}, "both"),
    "3: forward": ({"triplet": 0, "mpm": 0}, "forward"),
    "4: backward": ({"triplet": 0, "mpm": 0}, "backward"),
    "5: both": ({"triplet": 0, "mpm": 0}, "both"),
    "6: masked phrases": ({"triplet": 0, "bidir": 0}, "both"),
    "7: both, masked phrases": ({"triplet": 0}, "both"),
    "8: LAIP": ({}, "both"),
    "Table V: masked captions": ({"mpm": 0, "mlm": 1}, "both"),
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("last_stage", [True, False])
def test_a_row_has_its_losses_and_trains_all_its_weights(row: str, last_stage: bool) -> None:
    weights, attention = ROWS[row]
    config = replace(DEEP, weights=LaipWeights(**weights), attention=attention)
    method = build(config)
    batch, draws = make_step(config)
    losses, numbers = method(replace(batch, last_stage=last_stage), draws)
    left_out = {name for name in ("triplet", "bidir", "mpm", "mlm") if not getattr(config.weights, name)}
    expected = {"itc", "itm", "triplet", "bidir", "mpm", "mlm"} - left_out if last_stage else {"itc", "itm"}
    assert set(losses) == expected <= set(method.weights)
    assert set(numbers) == ({"phrases"} if {"bidir", "mpm"} & expected else set())
    total_loss(method, losses).backward()
    assert all(gradient.isfinite().all() for gradient in gradients(method).values())
    if config.weights.bidir and not config.weights.mpm and not config.weights.mlm and attention != "forward":
        assert not any(parameter.requires_grad for parameter in method.online.word_head.parameters())


def test_before_the_last_stage_it_is_albef() -> None:
    method, albef = build(LAIP), build(ALBEF)
    albef.load_state_dict({name: method.state_dict()[name] for name in albef.state_dict()})
    batch, draws = make_step(LAIP)
    (losses, _), (expected, _) = method(replace(batch, last_stage=False), draws), albef(batch, draws)
    assert set(losses) == set(expected) == {"itc", "itm"}
    total_loss(method, losses).backward()
    total_loss(albef, expected).backward()
    found = gradients(method)
    for name, gradient in gradients(albef).items():
        assert torch.equal(found.pop(name), gradient), name
    assert found and all(name.startswith("online.word_head") and not gradient.any() for name, gradient in found.items())


def test_albef_carries_the_word_head_from_which_laip_goes_on() -> None:
    albef, method = build(replace(ALBEF, keep_word_head=True)), build(LAIP)
    assert {name for name in method.state_dict() if "word_head" in name} <= set(albef.state_dict())
    before = {name: tensor.clone() for name, tensor in albef.state_dict().items() if "online.word_head" in name}
    batch, draws = make_step(ALBEF)
    total_loss(albef, albef(batch, draws)[0]).backward()
    gradients(albef)  # DDP would wait for the word head, were it to be trained
    assert before and all(torch.equal(albef.state_dict()[name], tensor) for name, tensor in before.items())


# -- edges ----------------------------------------------------------------------------------------------------


def assert_finite(method: Any, batch: Batch, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    losses, numbers = method(batch, draws)
    total_loss(method, losses).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients(method).values())
    return losses, numbers


def test_no_caption_has_a_phrase() -> None:
    method = build(LAIP)
    batch, draws = make_step(LAIP)
    batch.own.chunk_id_BL.zero_()
    losses, numbers = assert_finite(method, batch, draws)
    assert losses["bidir"].item() == losses["mpm"].item() == numbers["phrases"].item() == 0


def test_captions_of_one_word_and_no_phrase() -> None:
    method = build(LAIP)
    batch, draws = make_step(LAIP, longest=5)
    rows = [torch.tensor([BERT.cls_id, 9]) for _ in range(8)]
    captions = captions_of(rows, [torch.zeros(2, dtype=torch.int64)] * 8)
    assert_finite(method, replace(batch, own=captions, paired=captions), draws)


def test_all_attention_on_the_class_token_of_the_image() -> None:
    """The weights of the patches are then what is left of them: equal shares at worst, never a division by zero."""
    method = build(LAIP)
    batch, draws = make_step(LAIP)
    looks_at_cls = method.online.text_encoder.layers[1].cross_attention
    with torch.no_grad():
        method.online.image_encoder.norm.bias.zero_()
        looks_at_cls.query.weight.mul_(1e4)
        looks_at_cls.key_value.weight.mul_(1e4)
    assert_finite(method, batch, draws)


def test_stop_words_alone_and_a_phrase_cut_by_the_cap(tmp_path: Path) -> None:
    """Read by the real encoder: the first caption has no phrase, the second loses the one that does not fit whole."""
    texts = ["she is on the and of it", "a red shirt with long black trousers", "a tall man in white shoes", "a blue hat"]
    train_vocabulary(texts, size=120, path=tmp_path / "vocab.txt")
    vocabulary = open_word_pieces(str(tmp_path / "vocab.txt"))
    whole = CaptionEncoder(vocabulary, max_words=50, max_tokens=40, cleaning="space", chunker=BuiltinChunker())
    tokens = [len(whole.encode(text, "key").token_ids) for text in texts]
    cut = CaptionEncoder(vocabulary, max_words=50, max_tokens=tokens[1] - 1, cleaning="space", chunker=BuiltinChunker())
    encoded = cut.encode_many(texts, texts)
    assert [caption.num_chunks for caption in encoded] == [0, 1, 2, 1] and encoded[1].num_dropped_chunks == 1
    bert = replace(BERT, vocabulary_size=vocabulary.size, cls_id=vocabulary.start_id, mask_id=vocabulary.mask_id)
    method = build(replace(LAIP, bert=bert))
    captions = make_captions(encoded)
    batch, draws = make_step(replace(LAIP, bert=bert), identities=(1, 2, 3, 4), longest=max(captions.lengths))
    draws.numbers["phrase_word"] = torch.rand(4, 1, captions.token_ids_BL.shape[1], dtype=torch.float64)
    losses, numbers = assert_finite(method, replace(batch, own=captions, paired=captions), draws)
    assert numbers["phrases"].item() == 1.0 and losses["bidir"] > 0


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"attention_layer is 6, expected 1 to 5: there are 6 cross layers, and backward"):
        Laip(attention_layer=6)
    assert Laip(attention_layer=6, attention="forward").attention_layer == 6
    with pytest.raises(ValueError, match=r"method.weights.itm is 0, expected more than 0"):
        LaipWeights(itm=0)
    with pytest.raises(ValueError, match=r"method.padding is 'official', expected 'packed'"):
        Laip(padding="official")


def test_maps_for_the_report_are_the_weights_of_the_loss() -> None:
    """In evaluation mode and without gradients; the last word of a phrase is masked."""
    method = build(DEEP).eval()
    batch, draws = make_step(DEEP)
    with torch.no_grad():
        found = method.phrase_maps(batch.image_BCHW, batch.own)
    draws["phrase_word"].fill_(0.999999)
    forward_MP, backward_MP = looks_of(method, batch, draws, DEEP.attention_layer)
    assert [len(phrase.ids) - 1 for phrase in phrases_of(batch, draws)] == found.table.position_M.tolist()
    for name, attention in (("forward", "forward"), ("backward", "backward"), ("weights", "both")):
        expected = patch_weights(
            forward_MP[None, :, 1:], backward_MP[None, :, 1:], attention=attention, combination="product"
        )
        assert torch.allclose(found.maps_MN[name], expected[0], atol=1e-5), name
        assert not found.maps_MN[name].requires_grad
