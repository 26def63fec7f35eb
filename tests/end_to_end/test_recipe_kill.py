"""A recipe killed at any moment and started again by the same command ends as if nothing had happened, to the last bit."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from recipe_process import finish, kill_group, kill_tree, start
from small_world import LAUNCH_TWO, REPOSITORY, World, call, environment, metrics

STEPS = 12
KILLS = 10


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed."""

    run_folder: Path
    duration_s: float


def _arguments(world: World, runs: Path, *, recipe: str = "mars") -> list[str]:
    """Validations after steps 4 or 5, 9 and 12, checkpoints every 4 steps as well, the test at the end."""
    changes = ["--schedule.epochs", "3", "--loop.save-steps", "4", "--loop.log-steps", "1", "--data.workers", "1"]
    return ["tiny", *world.overrides(runs, recipe=recipe, max_steps=STEPS), *changes]


def _files(run_folder: Path) -> dict[str, Any]:
    """What must be equal: final weights, twin, queue and optimiser state, log, evaluations, results but for times."""
    manifest = json.loads((run_folder / f"checkpoints/step-{STEPS:08d}/manifest.json").read_text())
    results = json.loads((run_folder / "results/final-cuhk-pedes-test.json").read_text())
    return {
        "checkpoint": {name: entry["sha256"] for name, entry in manifest["files"].items()},
        "checkpoints": sorted(folder.name for folder in (run_folder / "checkpoints").iterdir()),
        "metrics": metrics(run_folder),
        "evaluations": {file.name: file.read_text() for file in sorted((run_folder / "evaluations").iterdir())},
        "results": {name: value for name, value in results.items() if name not in ("seconds", "date")},
    }


def _assert_same(run_folder: Path, undisturbed: Undisturbed) -> None:
    found, expected = _files(run_folder), _files(undisturbed.run_folder)
    assert {"model.safetensors", "optimiser.safetensors"} <= found["checkpoint"].keys()
    for what, value in expected.items():
        assert found[what] == value, what


def _leave_undisturbed(world: World, runs: Path, *, recipe: str = "mars") -> Undisturbed:
    finish(["tiny", "--runs", str(runs), "--data.root", "/nowhere"], runs / "log")  # waits for the server's imports
    began = time.monotonic()
    status = finish(_arguments(world, runs, recipe=recipe), runs / "log", recipe=recipe)
    assert status == 0, (runs / "log").read_text()
    return Undisturbed(runs / recipe / "tiny", time.monotonic() - began)


@pytest.fixture(scope="module")
def undisturbed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return _leave_undisturbed(world, tmp_path_factory.mktemp("undisturbed"))


def _newest(checkpoints: Path) -> int:
    """The step of the last one, 0 where there is none."""
    return max((int(folder.name[-8:]) for folder in checkpoints.glob("step-*")), default=0)


def _use_the_same_library(run_folder: Path, undisturbed: Undisturbed) -> None:
    """Where no step was made yet: another choice for float32 products, measured anew, would change bits."""
    if run_folder.exists():
        assert not list((run_folder / "checkpoints").glob("step-*"))
        shutil.copy(undisturbed.run_folder / "config.json", run_folder)


@pytest.mark.slow
def test_killed_ten_times_at_random_moments(world: World, tmp_path: Path, undisturbed: Undisturbed) -> None:
    arguments, log, moments = _arguments(world, tmp_path), tmp_path / "log", random.Random(7)
    # One kill in the start-up, before anything is saved; the others in what comes next: steps, saves, evaluations.
    waits = [0.6, *(moments.uniform(0.1, 0.5) * undisturbed.duration_s for _ in range(KILLS - 1))]
    killed, patience, saved = 0, 1.0, 0
    checkpoints = tmp_path / "mars/tiny/checkpoints"
    for number, wait_s in enumerate(waits):
        process = start(arguments, log)
        process.join(wait_s * patience)
        killed += kill_group(process)
        # A machine that got busier since the undisturbed run may not reach the next save in time: wait longer then.
        newest = _newest(checkpoints)
        patience, saved = (1.0 if newest > saved else patience * 1.5), newest
        if number == 0:
            _use_the_same_library(tmp_path / "mars/tiny", undisturbed)
    assert finish(arguments, log) == 0, log.read_text()
    assert killed >= 3 and "steps done)" in log.read_text()
    _assert_same(tmp_path / "mars/tiny", undisturbed)


@pytest.mark.slow
def test_aga_killed_at_random_moments(world: World, tmp_path: Path) -> None:
    """It has draws of its own, and masks by what the twin's weights attend to."""
    (tmp_path / "whole").mkdir()
    undisturbed = _leave_undisturbed(world, tmp_path / "whole", recipe="aga")
    arguments, moments = _arguments(world, tmp_path, recipe="aga"), random.Random(7)
    run_folder, log = tmp_path / "aga/tiny", tmp_path / "log"
    run_folder.mkdir(parents=True)
    _use_the_same_library(run_folder, undisturbed)
    for step in (4, 8):
        process = start(arguments, log, recipe="aga")
        while process.is_alive() and _newest(run_folder / "checkpoints") < step:
            time.sleep(0.001)
        process.join(moments.uniform(0, 0.2) * undisturbed.duration_s)
        assert kill_group(process), f"ended before it could be killed after step {step}:\n{log.read_text()}"
    assert finish(arguments, log, recipe="aga") == 0, log.read_text()
    _assert_same(run_folder, undisturbed)
    words = [folder / "report/masked_words-final-cuhk-pedes-test.json" for folder in (run_folder, undisturbed.run_folder)]
    assert words[0].read_bytes() == words[1].read_bytes()


@pytest.mark.slow
def test_laip_killed_before_and_after_the_boundary_of_its_stages(world: World, tmp_path: Path) -> None:
    changes = ["--loop.save-steps", "1", "--loop.keep-checkpoints", str(STEPS), "--schedule.second-stage-epoch", "1.6"]
    log = tmp_path / "log"
    whole = [*_arguments(world, tmp_path / "whole", recipe="laip"), *changes]
    assert finish(whole, log, recipe="laip") == 0, log.read_text()
    boundary = re.search(r"the second stage begins after step (\d+)", log.read_text())
    assert boundary is not None and 0 < int(boundary[1]) < STEPS - 1
    undisturbed = Undisturbed(tmp_path / "whole/laip/tiny", 0.0)
    run_folder, arguments = tmp_path / "laip/tiny", [*_arguments(world, tmp_path, recipe="laip"), *changes]
    run_folder.mkdir(parents=True)
    _use_the_same_library(run_folder, undisturbed)
    # With the last step of the first stage saved, then with the first of the second.
    for step in (int(boundary[1]), int(boundary[1]) + 1):
        process = start(arguments, log, recipe="laip")
        while process.is_alive() and _newest(run_folder / "checkpoints") < step:
            time.sleep(0.001)
        assert kill_group(process), log.read_text()
        for later in range(step + 1, STEPS + 1):  # on a busy machine it got further before the kill
            shutil.rmtree(run_folder / f"checkpoints/step-{later:08d}", ignore_errors=True)
    assert finish(arguments, log, recipe="laip") == 0, log.read_text()
    for step in (int(boundary[1]), int(boundary[1]) + 1):
        assert f"step-{step:08d} ({step} steps done)" in log.read_text()
    _assert_same(run_folder, undisturbed)


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
def test_killed_in_a_save_a_validation_and_the_test(world: World, tmp_path: Path, undisturbed: Undisturbed) -> None:
    arguments, log, run_folder = _arguments(world, tmp_path), tmp_path / "log", tmp_path / "mars/tiny"
    run_folder.mkdir(parents=True)
    _use_the_same_library(run_folder, undisturbed)
    for moment in MOMENTS:
        process = start(arguments, log)
        while process.is_alive() and not moment.has_come(run_folder):
            time.sleep(0.001)
        assert kill_group(process), f"ended before it could be killed {moment.name}:\n{log.read_text()}"
    assert finish(arguments, log) == 0, log.read_text()
    _assert_same(run_folder, undisturbed)


@pytest.mark.slow
def test_two_processes_killed_after_a_checkpoint(world: World, tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("undisturbed", "killed")}
    words = {name: [*LAUNCH_TWO, "recipes/mars.py", *_arguments(world, folder)] for name, folder in runs.items()}
    done = call(*words["undisturbed"])
    assert done.returncode == 0, done.stderr
    run_folder = runs["killed"] / "mars/tiny"
    run_folder.mkdir(parents=True)
    shutil.copy(runs["undisturbed"] / "mars/tiny/config.json", run_folder)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    launcher = subprocess.Popen(words["killed"], cwd=REPOSITORY, env=environment(), **quiet)
    deadline = time.monotonic() + 120
    while not (run_folder / "checkpoints/step-00000004").exists():
        assert launcher.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    kill_tree(launcher.pid)
    launcher.wait()
    assert not (run_folder / f"checkpoints/step-{STEPS:08d}").exists()
    done = call(*words["killed"])
    assert done.returncode == 0, done.stderr
    assert "going on from " in done.stderr + done.stdout
    _assert_same(run_folder, Undisturbed(runs["undisturbed"] / "mars/tiny", 0.0))
