"""Rates and decay of every parameter of APTM, and one step of its optimiser, as the official code has them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_aptm import RecordedAptm

from recipes import aptm, pretrain_mals
from tbps.config.run import Run
from tbps.convert.aptm_names import to_aptm
from tbps.methods.registry import build_method
from tbps.training.optimiser import make_optimiser, parameter_groups

KEYS = json.loads((Path(__file__).parent / "aptm_official_keys.json").read_text())
GRADIENT = 1e-4


def official_keys(name: str) -> list[str]:
    """A fused projection of ours is two or three tensors there."""
    return list(to_aptm({name: torch.zeros(6, 1)}))


@pytest.mark.parametrize(("run", "column"), [(pretrain_mals.aptm(), 3), (aptm.cuhk_pedes(), 4)], ids=["mals", "cuhk"])
def test_every_parameter_of_the_published_size(run: Run, column: int) -> None:
    with torch.device("meta"):
        method = build_method(run.method, image_px=run.data.image_px)
    found: dict[str, tuple[float, float]] = {}
    for group in parameter_groups(method, run.optim):
        for name in group["names"]:
            for key in official_keys(name):
                found[key] = (group["base_lr"] / run.optim.lr, group["weight_decay"])
    expected = {row[0]: (pytest.approx(row[column]), pytest.approx(row[5])) for row in KEYS["rows"] if row[column]}
    assert found == expected


@pytest.mark.parametrize("name", ["aptm_pretrain", "aptm_finetune"])
def test_one_step(name: str) -> None:
    recorded = RecordedAptm(name)
    given: dict[str, Any] = recorded.about["optimizer_of_step1"]
    pretrains = name == "aptm_pretrain"
    # The recorded fine-tuning step has no doubled rates: its model has fewer layers than the list of them.
    rules = pretrain_mals.APTM_RULES if pretrains else aptm.RULES[-2:]
    optim = replace(
        pretrain_mals.aptm().optim,
        lr=given["lr"],
        rules=rules,
        betas=tuple(given["betas"]),
        eps=given["eps"],
        weight_decay=given["weight_decay"],
    )
    optimiser = make_optimiser(recorded.method, optim)
    for group in optimiser.param_groups:
        for key in (key for name in group["names"] for key in official_keys(name)):
            official = recorded.about["param_groups"][key]
            assert (group["base_lr"], group["weight_decay"]) == (
                pytest.approx(official["lr_multiplier"] * given["lr"]),
                official["weight_decay"],
            ), key
        group["lr"] = group["base_lr"] * given["schedule_factor"]
    losses, _ = recorded.method(recorded.batch, recorded.draws)
    torch.stack([recorded.method.weights[key] * loss for key, loss in losses.items()]).sum().backward()
    optimiser.step()
    state, before = to_aptm(recorded.method.state_dict()), recorded.part("weights.")
    for key, expected in recorded.part("expected.step1.").items():
        moved = (expected - before[key]).abs().max().item()
        error = (state[key] - expected).abs().max().item()
        assert error <= 2e-7 + GRADIENT * moved, f"{key}: error {error:.3g} of a step of {moved:.3g}"
