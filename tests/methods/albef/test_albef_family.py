"""What every member shares: precision, checkpointing, alpha's schedule, modes, embedding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tiny_methods import (
    CONFIGS,
    LAIP,
    MARS,
    RASA,
    Config,
    build,
    captions_of,
    gradients,
    make_step,
    total_loss,
    with_dropout,
    with_fixed_choices,
)
from torch import Tensor

from tbps.methods.albef.family import AlbefFamily
from tbps.methods.method import Method
from tbps.nn.momentum import momentum_copy
from tbps.text.token_batch import Captions


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_bfloat16_autocast_is_near_float32(config: Config) -> None:
    outcomes = []
    for enabled in (False, True):
        method = build(config)
        batch, draws = make_step(config)
        draws = with_fixed_choices(batch, draws)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses, _ = method(batch, draws)
        total_loss(method, losses).backward()
        method.after_step()
        outcomes.append((losses, gradients(method), method.queue.image_KE))
    (exact, exact_gradients, exact_queue), (found, found_gradients, found_queue) = outcomes
    for name, value in exact.items():
        assert found[name].dtype == torch.float32, name
        assert found[name].item() == pytest.approx(value.item(), rel=0.03, abs=0.01), name
    flat, expected = (torch.cat([each.flatten() for each in g.values()]) for g in (found_gradients, exact_gradients))
    assert flat.isfinite().all()
    assert torch.cosine_similarity(flat, expected, dim=0) > 0.99
    assert found_queue.dtype == torch.float32
    assert torch.allclose(found_queue, exact_queue, atol=0.05)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_activation_checkpointing_changes_memory_and_nothing_else(config: Config) -> None:
    outcomes, kept_bytes = [], []
    for on in (False, True):
        method = build(with_dropout(config, 0.2))
        method.set_activation_checkpointing(on)
        assert (
            not method.momentum_encoder.text_encoder.checkpointing
            and not method.momentum_encoder.image_encoder.checkpointing
        )
        assert method.online.text_encoder.checkpointing == on
        batch, draws = make_step(with_dropout(config, 0.2))
        torch.manual_seed(3)  # dropout falls alike
        kept: dict[int, int] = {}  # bytes by address: what two operators keep counts once
        with torch.autograd.graph.saved_tensors_hooks(partial(_remember, kept), lambda tensor: tensor):
            losses, _ = method(batch, draws)
        kept_bytes.append(sum(kept.values()))
        total_loss(method, losses).backward()
        outcomes.append((losses, gradients(method)))
    # LAIP keeps the layer that it watches whole, one of its two cross layers here.
    assert kept_bytes[1] < kept_bytes[0] * (0.6 if config is LAIP else 0.5)
    for name, value in outcomes[0][0].items():
        assert torch.equal(value, outcomes[1][0][name]), name
    for name, gradient in outcomes[0][1].items():
        assert torch.allclose(gradient, outcomes[1][1][name], atol=1e-6), name


def _remember(kept: dict[int, int], tensor: Tensor) -> Tensor:
    kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return tensor


@pytest.mark.parametrize(("epoch", "alpha"), [(0.0, 0.0), (0.25, 0.1), (1.0, 0.4), (7.5, 0.4)])
def test_soft_targets_rise_over_the_first_epoch(epoch: float, alpha: float) -> None:
    method = build(RASA)
    batch, _ = make_step(RASA, epoch=epoch)
    assert method.past.alpha(batch) == pytest.approx(alpha)


@pytest.mark.parametrize("momentum_dropout", [True, False])
def test_the_momentum_encoders_mode(momentum_dropout: bool) -> None:
    method = build(replace(RASA, momentum_dropout=momentum_dropout))
    assert method.training and method.online.training
    assert method.momentum_encoder.training == momentum_dropout
    assert not method.eval().momentum_encoder.training


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_nothing_of_the_momentum_encoder_is_trained(config: Config) -> None:
    method = build(config)
    batch, draws = make_step(config)
    total_loss(method, method(batch, draws)[0]).backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in method.momentum_encoder.parameters())


READS_WORDS = {name: name in ("rasa", "mars", "aga") for name in CONFIGS}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_momentum_encoder_has_what_a_loss_reads_and_the_rest_changed_no_loss(name: str) -> None:
    """Against one with every part, all of whose image tokens are computed, over two steps with dropout."""
    config = with_dropout(CONFIGS[name], 0.2)
    outcomes = []
    for whole in (False, True):
        method = build(config)
        if whole:
            every_part = momentum_copy(method.online)
            every_part.load_state_dict(method.momentum_encoder.state_dict(), strict=False)
            method.momentum_encoder = method.past.momentum_encoder = every_part
        for _ in range(2):
            batch, draws = make_step(config)
            method.zero_grad()
            torch.manual_seed(3)
            losses, _ = method(batch, draws)
            total_loss(method, losses).backward()
            method.after_step()
        outcomes.append(
            (method.momentum_encoder.state_dict(), losses | gradients(method) | {"queue": method.queue.image_KE})
        )
    (lean, found), (whole_state, expected) = outcomes
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=1e-5, atol=1e-6), key
    assert all(torch.equal(whole_state[key], value) for key, value in lean.items())
    left_out = whole_state.keys() - lean.keys()
    if READS_WORDS[name]:
        assert not left_out
    else:
        text = method.online.text_encoder
        crossing = tuple(f"text_encoder.layers.{index}." for index in range(text.fusion_layer, len(text.layers)))
        assert left_out == {
            key for key in whole_state if key.startswith((*crossing, "word_head.")) or "cross_attention" in key
        }


def test_without_a_loss_of_words_nothing_of_the_momentum_cross_encoder_is_read() -> None:
    weights = replace(RASA.weights, mlm=0.0, mrtd=0.0)
    method = build(replace(RASA, weights=weights))
    assert len(method.momentum_encoder.text_encoder.layers) == RASA.bert.fusion_layer


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_features_alone_are_those_with_tokens(config: Config) -> None:
    method = build(config).eval()
    image_BCHW = make_step(config)[0].image_BCHW
    rows = list[int]()
    method.online.image_encoder.blocks[-1].fc1.register_forward_hook(lambda layer, args, out: rows.append(out.shape[1]))
    feature_IE = method.embed_image_features(image_BCHW)
    assert torch.allclose(feature_IE, method.embed_images(image_BCHW).feature_IE, atol=1e-6)
    assert rows == [1, 1 + method.online.image_encoder.num_patches]


def one_caption(captions: Captions, row: int) -> Captions:
    length = captions.lengths[row]
    return captions_of([captions.token_ids_BL[row, :length]], [captions.chunk_id_BL[row, :length]])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_embeddings_do_not_depend_on_the_batch_they_are_made_in(config: Config) -> None:
    method = build(config).eval()
    batch, _ = make_step(config, longest=30)
    images, captions = method.embed_images(batch.image_BCHW), method.embed_captions(batch.own)
    starts = torch.tensor((0, *batch.own.lengths)).cumsum(0).tolist()
    for row in range(batch.num_pairs):
        image = method.embed_images(batch.image_BCHW[row : row + 1])
        caption = method.embed_captions(one_caption(batch.own, row))
        assert torch.allclose(images.feature_IE[row], image.feature_IE[0], atol=1e-6)
        assert torch.allclose(images.tokens_IPD[row], image.tokens_IPD[0], atol=1e-5)
        assert torch.allclose(captions.feature_QE[row], caption.feature_QE[0], atol=1e-6)
        if config is MARS:
            assert captions.hidden_ND is None and caption.hidden_ND is None
        else:
            assert torch.allclose(captions.hidden_ND[starts[row] : starts[row + 1]], caption.hidden_ND, atol=1e-5)
    for feature in (images.feature_IE, captions.feature_QE):
        assert not feature.requires_grad
        assert torch.allclose(feature.norm(dim=1), torch.ones(8), atol=1e-6)


def test_padding_is_neither_computed_nor_seen() -> None:
    method: Any = build(RASA).eval()
    batch, _ = make_step(RASA)
    feature = method.embed_captions(batch.own).feature_QE
    ids = batch.own.token_ids_BL
    ids[ids == 0] = 7
    assert torch.equal(method.embed_captions(batch.own).feature_QE, feature)


def test_albefs_loss_is_half_of_both_contrasts() -> None:
    method = build(CONFIGS["albef"])
    batch, draws = make_step(CONFIGS["albef"])
    seen: dict[str, Tensor] = {}
    contrast = method.past.contrast

    def remembered(*arguments: Any, **options: Any) -> Any:
        found = contrast(*arguments, **options)
        seen.update(found.loss)
        return found

    method.past.contrast = remembered
    losses, _ = method(batch, draws)
    assert set(seen) == {"i2t", "t2i"}
    assert losses["itc"].item() == pytest.approx((seen["i2t"].item() + seen["t2i"].item()) / 2)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_method_holds_parts_and_derives_from_no_other_method(config: Config) -> None:
    method = build(config)
    assert type(method).__bases__ == (AlbefFamily,) and AlbefFamily.__bases__ == (Method,)
    assert method.past.online is method.online and method.past.momentum_encoder is method.momentum_encoder
    assert method.past.queue is method.queue and method.matching.head is method.itm_head
    names = {name for part in (method.TRAINERS.values()) for name in part} | set(method.MATCHING)
    assert names <= set(method.weights), "losses of other methods are named"
