"""Parameter groups and learning rates against what the official factories gave."""

from __future__ import annotations

from typing import Any

import pytest
from recorded_step import Recorded, build
from recordings import TABLES

from tbps.config.optim import Optimiser, Rule
from tbps.config.schedule import Schedule
from tbps.convert.official_names import official_names
from tbps.training.optimiser import make_optimiser
from tbps.training.schedule import learning_rate

ITERATIONS_PER_WARMUP_EPOCH = 100
"""The official loop moves the schedule every 100 iterations of the first epoch, and counts these as epochs of warm-up."""


@pytest.fixture(params=["albef", "rasa", "mars"])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    recorded = Recorded(request.param)
    if TABLES not in recorded.about:
        pytest.skip("the recording has no parameter groups and rates")
    return recorded


def optimiser_settings(official: dict[str, Any]) -> Optimiser:
    given = official["optimizer_config"]
    heads = ("prd_head", "mrtd_head") if "lr_custm" in given else ()
    return Optimiser(
        lr=given["lr"],
        rules=tuple(Rule(pattern=head, factor=given["lr_custm"] / given["lr"]) for head in heads),
        weight_decay=given["weight_decay"],
        betas=tuple(official["adamw"]["betas"]),
        eps=official["adamw"]["eps"],
    )


def schedule_settings(official: dict[str, Any]) -> Schedule:
    given = official["schedule_config"]
    stairs = given["warmup_epochs"]
    return Schedule(
        epochs=given["epochs"],
        min_lr=given["min_lr"],
        warmup_lr=given["warmup_lr"],
        warmup_steps=ITERATIONS_PER_WARMUP_EPOCH * stairs + 1 if stairs else 0,
        warmup_stairs=max(1, stairs),
        warmup="hold",
        every="epoch",
    )


def test_groups_hold_the_official_parameters(recorded: Recorded) -> None:
    official = recorded.about[TABLES]
    optimiser = make_optimiser(build(recorded), optimiser_settings(official))
    bert_level = recorded.about["config"]["name"] != "albef"
    ours = [
        (
            group["weight_decay"],
            group["base_lr"],
            sorted(name for ours in group["names"] for name in official_names(ours, bert_level=bert_level)),
        )
        for group in optimiser.param_groups
    ]
    expected = [
        (group["weight_decay"], pytest.approx(group["base_lr"], rel=1e-12), sorted(group["parameters"]))
        for group in official["param_groups"]
    ]
    assert ours == expected
    assert "temp" in ours[1][2], "the 0-dimensional temperature is decayed in the official code"


def test_rates_follow_the_official_table(recorded: Recorded) -> None:
    official = recorded.about[TABLES]
    if "lr_table" not in official:
        pytest.skip("the recording has no table of rates")
    iterations = official["iterations_per_epoch_used_for_the_table"]
    schedule = schedule_settings(official)
    base_lrs = [group["base_lr"] for group in official["param_groups"]]
    compared = 0
    for row in official["lr_table"]:
        for iteration in range(row["first_iteration"], row["last_iteration"] + 1):
            step = row["epoch"] * iterations + iteration
            ours = [learning_rate(schedule, step=step, steps_per_epoch=iterations, base_lr=base) for base in base_lrs]
            assert ours == pytest.approx(row["lr_per_group"], rel=1e-12)
            compared += 1
    assert compared == official["schedule_config"]["epochs"] * iterations
