"""`loop.profile`: which steps are profiled, what is written, and that training stays what it was."""

from __future__ import annotations

import gzip
import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import rank_processes
from small_method import WORKERS, small_parts, small_run
from small_process import final_state, log_of, metrics

from tbps.runs import checkpoint
from tbps.training.loop import train
from tbps.training.step_profile import StepProfile, steps_to_profile

SCRIPT = Path(__file__).with_name("small_process.py")
QUIET = {"save_steps": 0, "every_epochs": 0.0, "workers": WORKERS}


def traced(file: Path) -> list[str]:
    """Names of what a trace holds."""
    with gzip.open(file, "rt") as opened:
        return [event.get("name", "") for event in json.load(opened)["traceEvents"]]


def told(text: str) -> list[tuple[str, str]]:
    """Steps and operations of each profile that a log names."""
    return re.findall(r"profile of steps (\d+ to \d+): \S+\.json\.gz \(for ui\.perfetto\.dev\); costliest: (.*)", text)


def test_profiled_steps_have_the_same_losses_also_when_a_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped behind step 6, and profiled again in steps 9 to 11; all with workers that load."""
    plain = small_run(tmp_path / "plain", **QUIET)
    train(plain, small_parts(plain))
    profiled = small_run(tmp_path / "profiled", **{**QUIET, "save_steps": 6}, profile=3)
    with caplog.at_level(logging.INFO):
        folder = train(profiled, small_parts(profiled))
        shutil.rmtree(checkpoint.folder_of(folder.checkpoints, 12))  # as if it had been stopped before
        train(profiled, small_parts(profiled))
    assert metrics(tmp_path / "profiled") == metrics(tmp_path / "plain")
    assert final_state(tmp_path / "profiled", 12) == final_state(tmp_path / "plain", 12)
    assert [steps for steps, _ in told(caplog.text)] == ["3 to 5", "9 to 11"]
    for steps in ("00000003-00000005", "00000009-00000011"):
        names = traced(folder.profile / f"steps-{steps}.json.gz")
        assert names.count("Optimizer.step#AdamW.step") == 3 and any("AddmmBackward" in name for name in names)
    costliest = told(caplog.text)[0][1].split("; ")
    assert len(costliest) == 5 and all(re.fullmatch(r"\S+.* \d+% \(\d+ calls\)", words) for words in costliest)
    shares = [int(share) for share in re.findall(r"(\d+)%", told(caplog.text)[0][1])]
    assert shares == sorted(shares, reverse=True) and 20 < sum(shares) <= 102


@pytest.mark.slow
def test_of_two_processes_the_first_is_profiled(tmp_path: Path) -> None:
    runs = tmp_path / "two"
    with rank_processes(runs, SCRIPT, json.dumps({**QUIET, "profile": 2, "steps": 6}), "{}") as processes:
        assert [process.wait(120) for process in processes] == [0, 0], log_of(runs)
    assert [steps for steps, _ in told(log_of(runs))] == ["3 to 4"]
    assert [file.name for file in (runs / "small/test/profile").iterdir()] == ["steps-00000003-00000004.json.gz"]


@pytest.mark.parametrize(
    ("first", "saves", "steps", "said"),
    [
        (0, 0, range(3, 6), ""),
        (7, 0, range(10, 13), ""),
        (8, 0, range(11, 13), "of which this one has 2: it ends with step 12"),
        (11, 0, range(14, 14), "of which this one has 0: it ends with step 12"),
        (0, 4, range(3, 5), "of which this one has 2: something is saved or evaluated behind step 4"),
    ],
)
def test_fewer_steps_than_asked_for_are_said(
    first: int, saves: int, steps: range, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    def ends_at(step: int) -> bool:
        return step == 12 or bool(saves and step % saves == 0)

    assert steps_to_profile(3, first=first, total=12, ends_at=ends_at) == steps
    assert said in caplog.text and bool(caplog.text) == bool(said)


def test_a_trace_that_cannot_be_written_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "profile").write_text("in the way")
    profile = StepProfile(tmp_path / "profile", device=torch.device("cpu"), steps=range(1, 2))
    profile.begin(1)
    _ = torch.ones(3) + 1
    profile.end(1)
    assert "the profile of steps 1 to 1 could not be written to" in caplog.text


def test_a_run_that_ends_in_the_midst_leaves_no_profiler(tmp_path: Path) -> None:
    profile = StepProfile(tmp_path / "profile", device=torch.device("cpu"), steps=range(1, 4))
    profile.begin(1)
    profile.end(1)
    profile.close()
    assert not (tmp_path / "profile").exists()
    again: Any = torch.profiler.profile()
    with again:  # refused while another one runs
        pass
