"""A real disk (a small tmpfs) that is full while a run trains with dropout, and that has room again."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_method import small_parts, small_run
from small_process import metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tbps.config.run import Run
from tbps.data.batch import HostBatch
from tbps.training.loop import train
from tbps.training.parts import Parts

STEPS, FULL_AT, ROOM_AT = 12, 3, 70


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(disk: Path) -> Path:
    """Leave no byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return ballast


class _Batches:
    """The batches of the small run; before some of their steps, something happens."""

    def __init__(self, batches: Any, before: dict[int, Any]) -> None:
        self.batches, self.before = batches, before
        self.micro_batches_per_step = batches.micro_batches_per_step

    def __iter__(self) -> Iterator[HostBatch]:
        for step, batch in enumerate(self.batches, start=1):
            self.before.get(step, lambda: None)()
            yield batch


def _parts(run: Run, before: dict[int, Any]) -> Parts:
    parts = small_parts(run, dropout=0.1)
    made = parts.make_batches
    return replace(parts, make_batches=lambda **where: _Batches(made(**where), before))


def _run(disk: Path, *, save_steps: int, steps: int = STEPS) -> Run:
    run = small_run(disk, steps=steps, save_steps=save_steps, every_epochs=0.0)
    return replace(run, loop=replace(run.loop, tensorboard=True, log_steps=1))


def test_numbers_wait_for_room_and_training_goes_on(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps = ROOM_AT + 5  # a file that has begun a page of 4 KiB of memory fills it first
    run = _run(disk, save_steps=0, steps=steps)
    with caplog.at_level(logging.INFO):
        folder = train(run, _parts(run, {FULL_AT: lambda: _fill(disk), ROOM_AT: lambda: (disk / "ballast").unlink()}))
    assert [line["step"] for line in metrics(disk) if "split" not in line] == list(range(1, steps + 1))
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, steps + 1))
    told = [record.message for record in caplog.records if "cannot be written" in record.message]
    advice = "its lines wait in memory and are written when it takes them again: make room"
    assert told[0] == f"{folder.metrics} cannot be written (No space left on device): {advice}"
    assert told[1].startswith(f"TensorBoard's file in {folder.path} cannot be written (No space") and len(told) == 2
    waited = [record.message for record in caplog.records if "that had waited are written" in record.message]
    assert len(waited) == 2 and waited[0].startswith(f"{folder.metrics}: ")


def test_a_checkpoint_without_room_ends_the_run_and_the_same_command_goes_on(disk: Path) -> None:
    run = _run(disk, save_steps=3)
    with pytest.raises(
        OSError, match=r"step-00000006 could not be written: .*No space .* the checkpoint of step 3 is kept; make"
    ):
        train(run, _parts(run, {FULL_AT + 1: lambda: _fill(disk)}))
    assert not list(disk.rglob(".tmp-*"))
    (disk / "ballast").unlink()
    train(run, _parts(run, {}))
    assert [line["step"] for line in metrics(disk) if "split" not in line] == list(range(1, STEPS + 1))


def test_a_number_that_is_not_finite_is_told_without_room_for_its_file(disk: Path) -> None:
    run = _run(disk, save_steps=3)
    parts = small_parts(run, dropout=0.1, nan_step=4)
    made = parts.make_batches
    parts = replace(parts, make_batches=lambda **where: _Batches(made(**where), {4: lambda: _fill(disk)}))
    with pytest.raises(ValueError, match=r"loss itc is nan in step 5 .*failed_step\.json: No space left on device"):
        train(run, parts)


def test_a_speed_that_cannot_be_noted_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = _run(tmp_path, save_steps=3)
    (tmp_path / "small" / "test" / "timing.json").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        folder = train(run, _parts(run, {}))
    assert f"{folder.timing} could not be written (Is a directory): it is tried again at the next save" in caplog.messages
    assert json.loads((folder.evaluations / f"test-{STEPS:08d}.json").read_text())["weights_of_step"] and os.path.isdir(
        folder.timing
    )
