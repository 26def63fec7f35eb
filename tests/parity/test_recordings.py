"""Parity tests take every setting from a recording, so that other recordings can be run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import recordings
from recorded_step import Recorded, build
from test_optimiser_parity import optimiser_settings, schedule_settings


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording of MARS with other settings, in a folder of its own."""
    shutil.copy(Path(__file__).parent / "mars_A.safetensors", tmp_path)
    facts = json.loads((Path(__file__).parent / "mars_A.json").read_text())
    facts["config"]["loss_weights"] = [0.25 * (place + 1) for place in range(len(facts["config"]["loss_order"]))]
    facts["config"]["model"] |= {"mlm_probability": 0.2, "mrtd_mask_probability": 0.4, "momentum": 0.9}
    tables = facts[recordings.TABLES]
    tables["optimizer_config"] |= {"lr": 2e-5, "lr_custm": 3e-4, "weight_decay": 0.1}
    tables["schedule_config"] |= {"epochs": 5, "warmup_epochs": 2, "warmup_lr": 1e-7, "min_lr": 2e-7}
    tables["adamw"] = {"betas": [0.8, 0.99], "eps": 1e-6}
    (tmp_path / "mars_A.json").write_text(json.dumps(facts))
    monkeypatch.setattr(recordings, "FOLDER", tmp_path)
    return tmp_path


def test_settings_come_from_the_recording(other: Path) -> None:
    recorded = Recorded("mars")
    method = build(recorded)
    config = recorded.about["config"]
    assert method.weights == dict(zip(config["loss_order"], config["loss_weights"], strict=True))
    assert sorted(method.weights.values()) == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert method.past.momentum == 0.9
    optimiser = optimiser_settings(recorded.about[recordings.TABLES])
    assert (optimiser.lr, optimiser.weight_decay) == (2e-5, 0.1)
    assert [(rule.pattern, rule.factor) for rule in optimiser.rules] == [
        (head, pytest.approx(3e-4 / 2e-5)) for head in ("prd_head", "mrtd_head")
    ]
    assert (optimiser.betas, optimiser.eps) == ((0.8, 0.99), 1e-6)
    schedule = schedule_settings(recorded.about[recordings.TABLES])
    assert (schedule.epochs, schedule.warmup_steps, schedule.warmup_stairs) == (5, 201, 2)
    assert (schedule.warmup_lr, schedule.min_lr) == (1e-7, 2e-7)


def test_a_loss_that_is_not_known_is_not_passed_over(other: Path) -> None:
    facts = json.loads((other / "mars_A.json").read_text())
    facts["config"]["loss_order"][0] = "new"
    (other / "mars_A.json").write_text(json.dumps(facts))
    with pytest.raises(AssertionError, match=r"unknown losses \{'new'\}"):
        build(Recorded("mars"))


def test_a_recording_that_is_not_there_skips_its_test(other: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="has no recording rasa_A"):
        Recorded("rasa")
    assert recordings.settings("rerank_A") == {}
