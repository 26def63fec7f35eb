"""A batch of several groups is the mean of its groups, and micro-batches queue as one batch does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_methods import (
    AGA,
    CONFIGS,
    IDENTITIES,
    LAIP,
    MARS,
    RASA,
    Config,
    build,
    gradients,
    make_step,
    on_gpu,
    part_of_step,
    total_loss,
    with_dropout,
    with_fixed_choices,
)
from torch import Tensor

from tbps.config.methods.laip import LaipWeights
from tbps.data.batch import Batch, Draws
from tbps.training.seeds import seed_micro_step

CASES: dict[str, Config] = {
    **CONFIGS,
    "rasa-official": replace(RASA, padding="official", mlm_soft="sequence"),
    "mars-official": replace(MARS, padding="official", mlm_soft="sequence"),
    "laip-words": replace(LAIP, weights=LaipWeights(mlm=1.0)),
    "aga-random": replace(AGA, masking="random"),
}
HALVES = (slice(0, 4), slice(4, 8))


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_two_groups_are_the_mean_of_each_alone(config: Config, checkpointing: bool) -> None:
    method = build(with_dropout(config, 0.1))
    batch, draws = make_step(with_dropout(config, 0.1))
    batch = replace(batch, first_group=6)
    assert batch.num_groups == 2

    def losses_of(batch: Batch, draws: Draws) -> dict[str, Tensor]:
        seed_micro_step(seed=1, step=2, first_group=batch.first_group)
        return method(batch, draws)[0]  # type: ignore[no-any-return]

    whole = losses_of(batch, draws)
    total_loss(method, whole).backward()
    together = {name: gradient.clone() for name, gradient in gradients(method).items()}
    method.zero_grad()
    method.set_activation_checkpointing(checkpointing)
    parts = [losses_of(*part_of_step(batch, draws, rows)) for rows in HALVES]
    for name, value in whole.items():
        assert value.item() == pytest.approx((parts[0][name].item() + parts[1][name].item()) / 2, abs=1e-6), name
        assert parts[0][name].item() != pytest.approx(parts[1][name].item(), abs=1e-4), name
    for losses in parts:
        (total_loss(method, losses) / 2).backward()
    for name, gradient in gradients(method).items():
        bound = 1e-5 * together[name].abs().max().clamp(min=1e-2)
        assert (gradient - together[name]).abs().max() <= bound, name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_bfloat16_loses_the_same_units_in_two_groups_as_in_each_alone(config: Config) -> None:
    method = build(with_dropout(config, 0.2))
    batch, draws = make_step(with_dropout(config, 0.2))
    draws = with_fixed_choices(batch, draws)
    found = []
    for rows in (slice(0, 8), *HALVES):
        part = part_of_step(batch, draws, rows)
        seed_micro_step(seed=1, step=2, first_group=part[0].first_group)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(method(*part)[0])
    for name, value in found[0].items():
        assert value.item() == pytest.approx((found[1][name].item() + found[2][name].item()) / 2, rel=3e-3), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_gpu_drops_the_same_units_in_two_groups_as_in_each_alone(config: Config) -> None:
    method = build(with_dropout(config, 0.2)).cuda()
    batch, draws = make_step(with_dropout(config, 0.2))
    draws = with_fixed_choices(batch, draws)
    found = []
    for rows in (slice(0, 8), *HALVES):
        part, part_draws = part_of_step(batch, draws, rows)
        seed_micro_step(seed=1, step=2, first_group=part.first_group)
        found.append(method(on_gpu(part), part_draws)[0])
    for name, value in found[0].items():
        assert value.item() == pytest.approx((found[1][name].item() + found[2][name].item()) / 2, rel=1e-4), name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_two_micro_batches_queue_as_one_batch(config: Config) -> None:
    whole, parts = build(config), build(config)
    # -1 and numbers beyond 32 bits: their bits travel through float32 columns, some of them as NaN.
    identities = (-1, 2**40 + 3, 0, 7, 2**31, -(2**62), 5, 5)
    batch, draws = make_step(config, identities=identities)
    for _ in range(2):  # the second step wraps around the queue's 10 places
        whole(batch, draws)
        whole.after_step()
        for rows in HALVES:
            parts(*part_of_step(batch, draws, rows))
        parts.after_step()
    assert whole.queue.identity_K.tolist() == [*identities[2:], *identities[6:], *identities[:2]]
    assert torch.equal(whole.queue.identity_K, parts.queue.identity_K)
    assert whole.queue.pointer.item() == parts.queue.pointer.item() == 6
    for name in ("image_KE", "caption_KE"):
        assert torch.allclose(getattr(whole.queue, name), getattr(parts.queue, name), atol=1e-6)


def test_the_queue_holds_the_momentum_encoders_features_in_order() -> None:
    method = build(RASA)
    batch, draws = make_step(RASA)
    method(batch, draws)
    expected = method.momentum_encoder.image_feature(method.momentum_encoder.image_encoder(batch.second_image_BCHW))
    method.after_step()
    assert torch.allclose(method.queue.image_KE[:8], expected, atol=1e-6)
    assert method.queue.identity_K.tolist() == [*IDENTITIES, -100, -100]


def test_the_momentum_encoder_moves_once_per_step() -> None:
    method = build(replace(RASA, momentum=0.9))
    before = method.momentum_encoder.image_projection.weight.clone()
    batch, draws = make_step(replace(RASA, momentum=0.9))
    for rows in HALVES:
        method(*part_of_step(batch, draws, rows))
    assert torch.equal(method.momentum_encoder.image_projection.weight, before)
    method.after_step()
    expected = 0.9 * before + 0.1 * method.online.image_projection.weight
    assert torch.allclose(method.momentum_encoder.image_projection.weight, expected, atol=1e-6)


def test_a_forward_pass_in_evaluation_mode_queues_nothing() -> None:
    method = build(RASA)
    batch, draws = make_step(RASA)
    method(batch, draws)
    method.eval()
    method(batch, draws)
    method.train()
    method.after_step()
    assert method.queue.pointer.item() == 8
