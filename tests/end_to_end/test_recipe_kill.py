"""A recipe killed at any moment and started again by the same command ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from interrupted_run import STEPS, Chaos, arguments, assert_same_end, newest_step
from recipe_process import finish, kill_group, start
from small_world import World

INTERRUPTIONS = 4
"""`python -m tests.chaos` makes as many as one likes, of processes that a shell has started; of the half of these the
imports are done."""


@pytest.mark.slow
def test_two_processes_killed_and_stopped_at_random_moments(world: World, tmp_path: Path) -> None:
    told: list[str] = []
    chaos = Chaos(world, tmp_path, seed=7, say=told.append, anew=True)
    for chaos.anew in (True, False):
        chaos.interrupt(INTERRUPTIONS // 2)
    assert list(chaos.made.values()) == [INTERRUPTIONS // 2, INTERRUPTIONS // 2]
    assert any(not line.endswith("step 0") for line in told), "every interruption came before training"


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed."""

    run_folder: Path
    duration_s: float


def _leave_undisturbed(world: World, runs: Path, *, recipe: str = "mars") -> Undisturbed:
    runs.mkdir()
    finish(["tiny", "--runs", str(runs), "--data.root", "/nowhere"], runs / "log")  # waits for the server's imports
    began = time.monotonic()
    status = finish(arguments(world, runs, recipe=recipe), runs / "log", recipe=recipe)
    assert status == 0, (runs / "log").read_text()
    return Undisturbed(runs / recipe / "tiny", time.monotonic() - began)


@pytest.mark.slow
def test_aga_killed_at_random_moments(world: World, tmp_path: Path) -> None:
    """It has draws of its own, and masks by what the momentum encoder's weights attend to."""
    undisturbed = _leave_undisturbed(world, tmp_path / "whole", recipe="aga")
    words, moments = arguments(world, tmp_path, recipe="aga"), random.Random(7)
    run_folder, log = tmp_path / "aga/tiny", tmp_path / "log"
    for step in (4, 8):
        process = start(words, log, recipe="aga")
        while process.is_alive() and newest_step(run_folder) < step:
            time.sleep(0.001)
        process.join(moments.uniform(0, 0.2) * undisturbed.duration_s)
        assert kill_group(process), f"ended before it could be killed after step {step}:\n{log.read_text()}"
    assert finish(words, log, recipe="aga") == 0, log.read_text()
    assert_same_end(run_folder, undisturbed.run_folder)
    masked = [folder / "report/exhibits-final-cuhk-pedes-test.json" for folder in (run_folder, undisturbed.run_folder)]
    assert masked[0].read_bytes() == masked[1].read_bytes()


@pytest.mark.slow
def test_laip_killed_before_and_after_the_boundary_of_its_stages(world: World, tmp_path: Path) -> None:
    changes = ["--loop.save-steps", "1", "--loop.keep-checkpoints", str(STEPS), "--schedule.second-stage-epoch", "1.6"]
    log = tmp_path / "log"
    whole = [*arguments(world, tmp_path / "whole", recipe="laip"), *changes]
    assert finish(whole, log, recipe="laip") == 0, log.read_text()
    boundary = re.search(r"the second stage begins after step (\d+)", log.read_text())
    assert boundary is not None and 0 < int(boundary[1]) < STEPS - 1
    undisturbed = tmp_path / "whole/laip/tiny"
    run_folder, words = tmp_path / "laip/tiny", [*arguments(world, tmp_path, recipe="laip"), *changes]
    # With the last step of the first stage saved, then with the first of the second.
    for step in (int(boundary[1]), int(boundary[1]) + 1):
        process = start(words, log, recipe="laip")
        while process.is_alive() and newest_step(run_folder) < step:
            time.sleep(0.001)
        assert kill_group(process), log.read_text()
        for later in range(step + 1, STEPS + 1):  # on a busy machine it got further before the kill
            shutil.rmtree(run_folder / f"checkpoints/step-{later:08d}", ignore_errors=True)
    assert finish(words, log, recipe="laip") == 0, log.read_text()
    for step in (int(boundary[1]), int(boundary[1]) + 1):
        assert f"step-{step:08d} ({step} steps done)" in log.read_text()
    assert_same_end(run_folder, undisturbed)


@dataclass(frozen=True)
class Moment:
    """A moment of a run that can be seen from outside."""

    name: str
    has_come: Callable[[Path], bool]


MOMENTS = (
    Moment("while a checkpoint is written", lambda run: any((run / "checkpoints").glob(".tmp-*"))),
    Moment("in the first validation", lambda run: (run / "checkpoints/step-00000005").exists()),
    Moment("in the final test", lambda run: (run / f"evaluations/val-{STEPS:08d}.json").exists()),
    Moment("while results are written", lambda run: any((run / "results").glob("*"))),
)


@pytest.mark.slow
def test_killed_in_a_save_a_validation_and_the_test(world: World, tmp_path: Path) -> None:
    undisturbed = _leave_undisturbed(world, tmp_path / "whole")
    words, log, run_folder = arguments(world, tmp_path), tmp_path / "log", tmp_path / "mars/tiny"
    for moment in MOMENTS:
        process = start(words, log)
        while process.is_alive() and not moment.has_come(run_folder):
            time.sleep(0.001)
        assert kill_group(process), f"ended before it could be killed {moment.name}:\n{log.read_text()}"
    assert finish(words, log) == 0, log.read_text()
    assert_same_end(run_folder, undisturbed.run_folder)
