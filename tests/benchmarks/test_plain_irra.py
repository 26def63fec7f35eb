"""Our step of IRRA against the plain baseline: equal losses and gradients; the baseline against the recorded step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from irra_step import EQUAL, PADDINGS, build_ours, configure, difference, make_inputs, plain_step
from plain_irra import PlainIrra
from recorded_irra import RecordedIrra, settings

from tbps.convert.irra_names import to_irra
from tbps.objectives.irra_masking import MaskedWords

PX, IDENTITIES = (64, 32), 9


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
def test_losses_and_gradients(padding: str, clean: bool) -> None:
    config = configure(padding, clean=clean, quick=True)
    ours = build_ours(config, PX, IDENTITIES)
    plain = PlainIrra(config, image_px=PX, num_identities=IDENTITIES)
    plain.load_state_dict(to_irra(ours.state_dict()), strict=True)
    batch, draws = make_inputs(config, 4, PX)
    found, _ = ours(batch, draws)
    expected = plain_step(plain, config, batch, draws)()
    assert found.keys() == expected.keys()
    assert difference(values(found), values(expected)) < EQUAL
    for losses in (found, expected):
        torch.stack(list(losses.values())).sum().backward()
    gradients = to_irra({name: parameter.grad for name, parameter in ours.named_parameters()})
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None
        error = (gradients[name] - parameter.grad).abs().max().item()
        assert error <= 1e-5 * largest, name


@pytest.mark.parametrize("mask_all", [False, True])
def test_the_baseline_reproduces_the_recorded_official_step(mask_all: bool) -> None:
    recorded = RecordedIrra()
    facts, config = recorded.about, settings(recorded.about, mask_text_for_all_losses=mask_all)
    plain = PlainIrra(config, image_px=tuple(facts["config"]["img_size"]), num_identities=facts["config"]["num_classes"])
    plain.load_state_dict(recorded.part("weights."), strict=True)
    masked = MaskedWords(recorded.tensors["draws.mlm_ids"], recorded.tensors["draws.mlm_labels"] != 0)
    batch = recorded.batch
    found = plain(batch.image_BCHW, recorded.tensors["inputs.caption_ids"], masked, batch.identity_B)
    prefix = "expected.aliased.loss" if mask_all else "expected.loss"
    names = {"sdm": "sdm", "identity": "id", "mlm": "mlm"}
    weights = recorded.method.weights
    expected = {ours: recorded.tensors[f"{prefix}.{theirs}"] / weights[ours] for ours, theirs in names.items()}
    assert difference(values(found), values(expected)) < EQUAL


def values(losses: dict[str, Any]) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}
