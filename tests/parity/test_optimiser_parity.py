"""Parameter groups and learning rates against what the official MARS factories gave."""

from __future__ import annotations

import pytest
from recorded_step import Recorded, build

from tbps.config.optim import AdamW
from tbps.config.schedule import Cosine
from tbps.convert.official_names import official_names
from tbps.training.optimiser import make_optimiser
from tbps.training.schedule import learning_rate


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded("mars")


def test_groups_hold_the_official_parameters(recorded: Recorded) -> None:
    official = recorded.about["optimizer_and_schedule_of_this_vector"]["param_groups"]
    optimiser = make_optimiser(build(recorded), AdamW(lr=1e-5, head_lr=1e-4))
    ours = [
        (
            group["weight_decay"],
            group["base_lr"],
            sorted(official for name in group["names"] for official in official_names(name)),
        )
        for group in optimiser.param_groups
    ]
    expected = [(group["weight_decay"], group["base_lr"], sorted(group["parameters"])) for group in official]
    assert ours == expected
    assert "temp" in ours[1][2], "the 0-dimensional temperature is decayed in the official code"


def test_rates_follow_the_official_table(recorded: Recorded) -> None:
    official = recorded.about["optimizer_and_schedule_of_this_vector"]
    iterations = official["iterations_per_epoch_used_for_the_table"]
    schedule = Cosine(epochs=30, min_lr=1e-6, warmup_steps=101, warmup_lr=1e-5, warmup="hold", every="epoch")
    base_lrs = [group["base_lr"] for group in official["param_groups"]]
    compared = 0
    for row in official["lr_table"]:
        for iteration in range(row["first_iteration"], row["last_iteration"] + 1):
            step = row["epoch"] * iterations + iteration
            ours = [learning_rate(schedule, step=step, steps_per_epoch=iterations, base_lr=base) for base in base_lrs]
            assert ours == pytest.approx(row["lr_per_group"], rel=1e-12)
            compared += 1
    assert compared == 30 * iterations
