from __future__ import annotations

import time

from tbps.training.progress import Progress


def test_a_line_tells_place_losses_speed_and_time_left() -> None:
    line = {"step": 50, "epoch": 1.25, "loss/itc": 1.5, "loss/prd": 0.25, "loss": 1.625, "grad_norm": 3.0}
    assert Progress(step=0, total_steps=200, batch_pairs=8).sentence(line, 4.0) == (
        "step 50/200  epoch 1.25  loss 1.6250 (itc 1.500 prd 0.250)  4.0 pairs/s  0:05:00 left"
    )


def test_pauses_do_not_count() -> None:
    progress = Progress(step=10, total_steps=20, batch_pairs=8)
    progress.pause()
    time.sleep(0.2)
    progress.resume()
    time.sleep(0.02)
    assert progress.pairs_per_second(11) > 8 / 0.15
