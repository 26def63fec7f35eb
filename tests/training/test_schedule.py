from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import pytest

from tbps.config.schedule import Schedule
from tbps.training.schedule import learning_rate, second_stage_step, total_steps


def _rates(schedule: Schedule, steps: int, steps_per_epoch: float) -> list[float]:
    return [learning_rate(schedule, step=step, steps_per_epoch=steps_per_epoch, base_lr=1.0) for step in range(steps)]


def test_linear_warmup_meets_the_cosine_without_a_jump() -> None:
    rates = _rates(Schedule(epochs=10, min_lr=0.0, warmup_steps=20, warmup_lr=0.1), 100, 10)
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(0.55)
    assert rates[20] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert max(abs(a - b) for a, b in pairwise(rates)) < 0.06
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_steps_of_an_epoch_share_a_rate_also_where_epochs_are_not_whole_steps() -> None:
    steps_per_epoch = 7 / 3
    schedule = Schedule(epochs=6, min_lr=0.0, every="epoch")
    rates = _rates(schedule, 14, steps_per_epoch)
    assert len(set(rates)) == 6
    # three epochs are exactly 7 steps: step 7 is the first of the fourth
    assert rates[7] == pytest.approx(learning_rate(schedule, step=3, steps_per_epoch=1, base_lr=1.0))
    assert rates[6] > rates[7]


def test_max_steps_stops_early_on_the_same_curve() -> None:
    long, short = Schedule(epochs=10), Schedule(epochs=10, max_steps=5)
    assert (total_steps(long, steps_per_epoch=7.5), total_steps(short, steps_per_epoch=7.5)) == (75, 5)
    assert _rates(long, 5, 7.5) == _rates(short, 5, 7.5)
    assert total_steps(Schedule(epochs=1, max_steps=100), steps_per_epoch=7.5) == 8


def test_a_run_shorter_than_its_warmup_stays_in_range() -> None:
    rates = _rates(Schedule(epochs=1, min_lr=0.0, warmup_steps=20, warmup_lr=0.1), 10, 10)
    assert all(0.1 <= rate <= 1.0 for rate in rates)


@pytest.mark.parametrize("every", ["step", "epoch"])
def test_each_of_two_stages_has_the_whole_curve(every: Literal["step", "epoch"]) -> None:
    stages = Schedule(epochs=9, second_stage_epoch=6, warmup_steps=3, warmup_lr=0.1, every=every)
    assert second_stage_step(stages, steps_per_epoch=2.5) == 15
    first = _rates(Schedule(epochs=6, warmup_steps=3, warmup_lr=0.1, every=every), 15, 2.5)
    second = _rates(Schedule(epochs=3, warmup_steps=3, warmup_lr=0.1, every=every), 8, 2.5)
    assert _rates(stages, 23, 2.5) == [*first, *second]
    assert total_steps(stages, steps_per_epoch=2.5) == 23


@pytest.mark.parametrize(("epoch", "steps_per_epoch", "step"), [(1, 2.25, 3), (1, 7 / 3, 3), (3, 7 / 3, 7), (0, 4.0, 0)])
def test_the_second_stage_begins_with_the_first_step_at_or_after_its_epoch(
    epoch: float, steps_per_epoch: float, step: int
) -> None:
    assert second_stage_step(Schedule(epochs=9, second_stage_epoch=epoch), steps_per_epoch=steps_per_epoch) == step


@pytest.mark.parametrize("epoch", [9, 10])
def test_a_second_stage_outside_the_schedule_is_refused(epoch: float) -> None:
    with pytest.raises(ValueError, match=rf"schedule.second_stage_epoch is {epoch}, expected more than 0 and less than"):
        Schedule(epochs=9, second_stage_epoch=epoch)


def test_a_held_warmup_rises_by_the_official_stairs() -> None:
    """`warmup_epochs: 2` of the official factories: the scheduler's time is i // 100 after iterations 0, 100 and 200."""
    schedule = Schedule(
        epochs=10, min_lr=0.0, warmup_steps=201, warmup_lr=0.2, warmup="hold", warmup_stairs=2, every="epoch"
    )
    rates = _rates(schedule, 400, 300)
    time, expected = 0, []
    for iteration in range(300):
        expected.append(0.2 + 0.8 * min(time, 2) / 2)
        if iteration % 100 == 0 and iteration <= 200:
            time = iteration // 100
    assert rates[:300] == pytest.approx(expected)
    assert [rates[100], rates[101], rates[200], rates[201]] == pytest.approx([0.2, 0.6, 0.6, 1.0])
    assert rates[300] == pytest.approx(0.5 * (1 + math.cos(math.pi / 10)))


def test_a_held_warmup_ends_with_its_first_epoch() -> None:
    rates = _rates(Schedule(epochs=10, warmup_steps=101, warmup_lr=0.1, warmup="hold", every="epoch"), 60, 30)
    assert rates[:30] == [0.1] * 30
    assert rates[30] == pytest.approx(0.9755, abs=1e-3)


@pytest.mark.parametrize(("warmup", "steps"), [("linear", 201), ("hold", 202), ("hold", 0)])
def test_stairs_that_cannot_be_climbed_are_refused(warmup: Literal["linear", "hold"], steps: int) -> None:
    with pytest.raises(
        ValueError, match=r"schedule.warmup_stairs is 2, expected 1, or schedule.warmup = hold and a divisor"
    ):
        Schedule(epochs=1, warmup=warmup, warmup_steps=steps, warmup_stairs=2)


@pytest.mark.parametrize("base_lr", [1e-5, 5e-5])
@pytest.mark.parametrize("steps_per_epoch", [7, 2.5])
def test_irra_warms_up_by_epochs_from_a_share_of_each_rate(base_lr: float, steps_per_epoch: float) -> None:
    """anosorae/IRRA, defaults: per epoch 0.1 + 0.9 e / 5 for e < 5, then half a cosine to 0 over the other 55."""
    schedule = Schedule(epochs=60, min_lr=0.0, warmup_epochs=5, warmup_share=0.1, every="epoch")
    for step in range(int(60 * steps_per_epoch)):
        epoch = math.floor(step / steps_per_epoch)
        factor = 0.1 + 0.9 * epoch / 5 if epoch < 5 else 0.5 * (1 + math.cos(math.pi * (epoch - 5) / 55))
        found = learning_rate(schedule, step=step, steps_per_epoch=steps_per_epoch, base_lr=base_lr)
        assert found == pytest.approx(base_lr * factor, rel=1e-9)
    assert factor == pytest.approx(8.2e-4, rel=0.01)


def test_aptm_falls_in_a_line_after_its_warm_up() -> None:
    """Shuyu-XJTU/APTM scheduler.py, `linear`: from 0 up, then down to 0 at the end."""
    schedule = Schedule(epochs=10, curve="linear", min_lr=0.0, warmup_steps=20, warmup_share=0.0)
    for step in range(100):
        factor = step / 20 if step < 20 else (100 - step) / 80
        found = learning_rate(schedule, step=step, steps_per_epoch=10, base_lr=1e-4)
        assert found == pytest.approx(1e-4 * factor, rel=1e-9)


def test_aptm_fine_tunes_along_a_line_with_drops() -> None:
    """Shuyu-XJTU/APTM scheduler.py, `step`: its line, halved after four tenths, a fifth of it after seven."""
    schedule = Schedule(epochs=30, curve="linear-drops", min_lr=0.0, warmup_epochs=3, warmup_share=0.0)
    for step in range(300):
        factor = step / 30 if step < 30 else (300 - step) / 270
        factor *= 1 if step < 120 else 0.5 if step < 210 else 0.2
        found = learning_rate(schedule, step=step, steps_per_epoch=10, base_lr=1e-4)
        assert found == pytest.approx(1e-4 * factor, rel=1e-9), f"step {step}"
    with pytest.raises(ValueError, match="linear-drops without a linear warm-up"):
        Schedule(epochs=30, curve="linear-drops")


def test_a_line_ends_at_the_floor_and_may_fall_once_an_epoch() -> None:
    rates = _rates(Schedule(epochs=4, curve="linear", min_lr=0.2, every="epoch"), 8, 2)
    assert rates == pytest.approx([1.0, 1.0, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4])
    assert learning_rate(Schedule(epochs=4, curve="linear", min_lr=0.2), step=8, steps_per_epoch=2, base_lr=1.0) == 0.2


def test_a_warm_up_in_epochs_may_rise_at_every_step() -> None:
    by_epochs = _rates(Schedule(epochs=4, warmup_epochs=1.5, warmup_lr=0.1), 40, 10)
    assert by_epochs == pytest.approx(_rates(Schedule(epochs=4, warmup_steps=15, warmup_lr=0.1), 40, 10))


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"warmup_steps": 3}, "schedule.warmup_steps is 3"), ({"warmup": "hold"}, "schedule.warmup is hold")],
)
def test_two_lengths_of_a_warm_up_are_refused(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=rf"^schedule.warmup_epochs is 2 and {found}, expected one length of a"):
        Schedule(epochs=5, warmup_epochs=2, **changes)
