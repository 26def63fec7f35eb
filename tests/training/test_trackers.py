from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tbps.runs.metrics_log import Line
from tbps.training.trackers import TensorBoard, WandB

LINES: list[Line] = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "split": "val", "rank_1": 50.0}]


def test_tensorboard_shows_every_number_and_forgets_what_is_done_again(tmp_path: Path) -> None:
    first = TensorBoard(tmp_path, step=0)
    first.write([*LINES, {"step": 3, "loss": 9.0}])
    first.close()
    second = TensorBoard(tmp_path, step=2)
    second.write([{"step": 3, "loss": 0.5}])
    second.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.0), (2, 1.0), (3, 0.5)]
    assert [(event.step, event.value) for event in events.Scalars("val/rank_1")] == [(2, 50.0)]


@pytest.mark.slow
def test_wandb_writes_offline_where_nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = WandB(tmp_path, config={"lr": 1.0}, project="small", name="test")
    tracker.write(LINES)
    tracker.close()
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
