"""What status and follow tell of run folders, with and without a job."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from small_world import World, run_recipe

from launch.follow import line_of
from launch.job_record import JobRecord, write_record
from launch.run_state import state_of
from launch.slurm import Queued
from launch.status import age_in_words, main
from tbps.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of two steps."""
    runs = tmp_path_factory.mktemp("trained")
    assert run_recipe("mars", "tiny", *world.overrides(runs, max_steps=2)) == 0
    return RunFolder(runs / "mars/tiny")


@pytest.fixture(autouse=True)
def without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def record(folder: RunFolder, job: str, logs: Path) -> None:
    write_record(folder.path, JobRecord(job=job, logs=str(logs), arguments=("recipes/mars.py", "tiny")))


def test_a_run_by_hand_goes_from_new_to_finished(trained: RunFolder, tmp_path: Path) -> None:
    run = trained.read_run()
    assert state_of(RunFolder(tmp_path / "none"), None, {}).kind == "new"
    state = state_of(trained, run, None)
    assert (state.kind, state.progress.step, state.progress.total, state.restarts) == ("finished", 2, 2, "-")
    assert line_of(state).startswith("finished, step 2 of 2, loss ")
    assert state_of(trained, run, {}, also_on=["rstpreid"]).kind == "stopped"
    evaluation = trained.evaluations / "test-00000002.json"
    kept = evaluation.read_text()
    evaluation.unlink()
    assert state_of(trained, run, {}).kind == "stopped"
    evaluation.write_text(kept)


def test_a_job_is_what_slurm_says_then_what_the_folder_says(trained: RunFolder, tmp_path: Path) -> None:
    run = trained.read_run()
    record(trained, "4_2", tmp_path)
    try:
        pending = state_of(trained, run, {"4_2": Queued(state="pending", reason="Resources")})
        assert (pending.kind, pending.reason) == ("pending", "Resources")
        assert line_of(pending).startswith("pending (Resources), step 2 of 2")
        assert state_of(trained, run, {"4_2": Queued(state="running", reason="")}).kind == "running"
        assert state_of(trained, run, {}).kind == "finished"
        begun = trained.path / "restarts.jsonl"
        starts = [{"job": "4_2", "restart": 0, "cause": "submitted"}, {"job": "4_2", "restart": 1, "cause": "preemption"}]
        begun.write_text("".join(json.dumps(start) + "\n" for start in starts))
        assert line_of(state_of(trained, run, {})).endswith("restarts 1 (preemption)")
        begun.unlink()
    finally:
        (trained.path / "job.json").unlink()


def test_a_log_that_is_just_written_to_is_read(trained: RunFolder) -> None:
    kept = trained.metrics.read_bytes()
    run = trained.read_run()
    trained.metrics.write_bytes(kept + b'{"step": 3, "ep')
    os.utime(trained.metrics, (time.time(), time.time() - 600))
    progress = state_of(trained, run, {}).progress
    assert progress.step == 2 and progress.age_s is not None and 599 < progress.age_s < 660
    trained.metrics.write_bytes(kept)


def test_the_table_has_every_run(trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = RunFolder(trained.path.parent / "[b]asked")
    record(asked, "7", tmp_path)
    assert main([str(trained.path.parents[1])]) == 0
    told = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("\u2502")] for line in told.splitlines()]
    rows = {cells[1]: cells for cells in lines if len(cells) > 2}
    assert rows["mars/tiny"][2:5] == ["-", "finished", "2/2"]
    assert rows["mars/[b]asked"][2:5] == ["7", "unknown", "-"]
    assert "jobs are not looked up: there is no squeue on this machine" in told
    assert main([str(tmp_path)]) == 2
    assert "holds no runs; give the folder that holds <recipe>/<name>" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (119, "119 s"), (600, "10 min"), (9000, "2 h"), (4e5, "5 d")])
def test_ages(seconds: float, words: str) -> None:
    assert age_in_words(seconds) == words
