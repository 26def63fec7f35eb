"""Batches at the edge: one identity, no chunk, no masked word, captions of [CLS] and one word."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from tiny_methods import (
    BERT,
    CONFIGS,
    LAIP,
    MARS,
    RASA,
    Config,
    build,
    captions_of,
    gradients,
    make_step,
    part_of_step,
    total_loss,
    with_dropout,
)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_one_identity_in_the_whole_batch(config: Config) -> None:
    method = build(config)
    batch, draws = make_step(config, identities=(3,) * 8)
    losses, _ = method(batch, draws)
    total_loss(method, losses).backward()
    for name, value in losses.items():
        assert value.isfinite() and (value > 0) == (name not in ("triplet", "bidir")), name  # those have negatives alone
    for name, gradient in gradients(method).items():
        assert gradient.isfinite().all(), name
    method.after_step()
    assert method.queue.image_KE.isfinite().all()


def test_a_group_of_one_identity_is_matched_by_its_positives() -> None:
    method = build(RASA)
    batch, draws = make_step(RASA, identities=(3,) * 4)
    with torch.no_grad():
        method.itm_head.weight.zero_()
        method.itm_head.bias.copy_(torch.tensor([-40.0, 40.0]))  # "matched" whatever it sees
    assert method(batch, draws)[0]["pitm"].item() == pytest.approx(0, abs=1e-6)
    other, draws = make_step(RASA, identities=(3, 3, 3, 4))
    assert method(other, draws)[0]["pitm"].item() == pytest.approx(80 * 8 / 12, rel=1e-5)


@pytest.mark.parametrize("head", ["own", "shared"])
def test_no_chunk_in_the_batch(head: Literal["own", "shared"]) -> None:
    method = build(replace(MARS, attribute_head=head))
    batch, draws = make_step(replace(MARS, attribute_head=head))
    batch.paired.chunk_id_BL.zero_()
    losses, _ = method(batch, draws)
    assert losses["attribute"].item() == 0
    total_loss(method, losses).backward()
    for name, gradient in gradients(method).items():
        assert gradient.isfinite().all(), name


def test_no_chunk_in_one_of_two_groups() -> None:
    method = build(MARS)
    batch, draws = make_step(MARS)
    batch.paired.chunk_id_BL[:4] = 0
    second = method(*part_of_step(batch, draws, slice(4, 8)))[0]["attribute"]
    assert method(batch, draws)[0]["attribute"].item() == pytest.approx(second.item() / 2, rel=1e-5)


def test_no_phrase_in_one_of_two_groups() -> None:
    """A word stands in for its phrases: it must not move what dropout takes from the rest of its group."""
    method = build(with_dropout(LAIP, 0.2))
    batch, draws = make_step(with_dropout(LAIP, 0.2))
    batch.own.chunk_id_BL[:4] = 0
    found = []
    for rows in (slice(0, 8), slice(0, 4), slice(4, 8)):
        torch.manual_seed(3)
        found.append(method(*part_of_step(batch, draws, rows))[0])
    for name, value in found[0].items():
        assert value.item() == pytest.approx((found[1][name].item() + found[2][name].item()) / 2, abs=1e-6), name


@pytest.mark.parametrize("soft", ["vocabulary", "sequence"])
def test_no_masked_word(soft: Literal["vocabulary", "sequence"]) -> None:
    method = build(replace(RASA, mlm_soft=soft))
    batch, draws = make_step(replace(RASA, mlm_soft=soft))
    draws["mlm"].fill_(1.0)
    losses, _ = method(batch, draws)
    assert losses["mlm"].item() == 0
    total_loss(method, losses).backward()
    for name, gradient in gradients(method).items():
        assert gradient.isfinite().all(), name


def test_captions_of_one_word() -> None:
    method = build(MARS)
    batch, draws = make_step(MARS, longest=5)
    rows = [torch.tensor([BERT.cls_id, 9]) for _ in range(8)]
    captions = captions_of(rows, [torch.zeros(2, dtype=torch.int64)] * 8)
    losses, _ = method(replace(batch, own=captions, paired=captions), draws)
    assert all(value.isfinite() for value in losses.values())
