from __future__ import annotations

import time
from collections.abc import Iterator

from tbps.training.data_wait import TimedBatches
from tbps.training.progress import Progress


def test_a_line_tells_place_losses_speed_and_time_left() -> None:
    line = {"step": 50, "epoch": 1.25, "loss/itc": 1.5, "loss/prd": 0.25, "loss": 1.625, "grad_norm": 3.0}
    assert Progress(step=0, total_steps=200, batch_pairs=8).sentence(line, 4.0) == (
        "step 50/200  epoch 1.25  loss 1.6250 (itc 1.500 prd 0.250)  4.0 pairs/s  0% waiting for data  0:05:00 left"
    )


def test_a_line_tells_mfu_and_memory_where_they_are_known() -> None:
    line = {"step": 50, "epoch": 1, "loss": 1.5, "mfu": 0.4118, "memory_gib": 41.25}
    told = Progress(step=0, total_steps=200, batch_pairs=8).sentence(line, 4.0)
    assert told.endswith("  4.0 pairs/s (MFU 41.2%)  0% waiting for data  41.25 GiB at most  0:05:00 left")


def test_waiting_is_told_as_a_part_of_the_time() -> None:
    progress = Progress(step=0, total_steps=20, batch_pairs=8)
    time.sleep(0.2)
    progress.wait(0.05)
    progress.pairs_per_second(1)
    assert 0.02 < progress.data_wait_share <= 0.25
    assert f"  {progress.data_wait_share:.0%} waiting for data  " in progress.sentence(
        {"step": 1, "epoch": 1, "loss": 1}, 1.0
    )
    time.sleep(0.01)
    progress.pairs_per_second(2)
    assert progress.data_wait_share == 0


def test_batches_are_timed() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.1 * number)
            yield number

    batches = TimedBatches(slow())
    assert next(batches) == 0 and batches.take_waited_s() < 0.1
    assert next(batches) == 1 and next(batches) == 2
    assert 0.3 <= batches.take_waited_s() < 3 and batches.take_waited_s() == 0
    assert list(batches) == []


def test_pauses_do_not_count() -> None:
    progress = Progress(step=10, total_steps=20, batch_pairs=8)
    progress.pause()
    time.sleep(0.2)
    progress.resume()
    time.sleep(0.02)
    assert progress.pairs_per_second(11) > 8 / 0.15
