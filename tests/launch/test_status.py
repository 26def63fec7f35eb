"""What status and follow tell of run folders, with and without a job."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from small_world import World, call_anew, run_recipe

from launch.follow import line_of
from launch.job_record import JobRecord, write_record
from launch.restarts import announce_start, read_restarts
from launch.run_state import state_of
from launch.slurm import Queued
from launch.slurm_job import SlurmJob
from launch.status import age_in_words, main
from tbps.runs.run_folder import RunFolder


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
    assert re.fullmatch(r"finished, step 2 of 2, loss \d+\.\d{4}, \d+\.\d pairs/s", line_of(state))
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
        causes = ("submitted", "preemption")
        starts = [{"job": "4_2", "restart": n, "cause": cause, "step": n} for n, cause in enumerate(causes)]
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
    speed = next(
        line["pairs_per_s"] for line in map(json.loads, trained.metrics.read_text().splitlines()[::-1]) if "loss" in line
    )
    assert rows["mars/tiny"][6] == f"{speed:.1f}"
    assert rows["mars/[b]asked"][2:5] == ["7", "unknown", "-"]
    assert "jobs are not looked up: there is no squeue on this machine" in told
    assert main([str(tmp_path)]) == 2
    assert "holds no runs; give the folder that holds <recipe>/<name>" in capsys.readouterr().err


def test_who_looks_at_runs_and_submits_them_does_not_wait_for_pytorch(trained: RunFolder) -> None:
    """A second and a half of every command, or half a minute on a network's file system."""
    script = """
import sys, launch.submit, launch.sweep
from launch.planned_run import plan_run
from launch.status import main as status
from tbps.command import main as tbps

plan_run("recipes/mars.py", "tiny", [], accelerate="zero2")
assert status([sys.argv[1]]) == tbps(["results", sys.argv[1]]) == 0
print("torch" in sys.modules)
"""
    done = call_anew(sys.executable, "-c", script, str(trained.path.parents[1]))
    assert done.stdout.count("mars/tiny") == 2 and done.stdout.endswith("\nFalse\n"), done.stdout + done.stderr


HALF = b'{"job": "4", "restart": 1, "cau'
DAMAGED: dict[str, tuple[str, bytes, str, str]] = {
    # name of the run: file, what is in it, state, what the row says
    "half a config": ("config.json", b'{"run": {', "unreadable", "config.json cannot be read"),
    "no config": ("config.json", b"[]", "unreadable", "config.json holds list; expected the config of a run"),
    "another version": ("config.json", b'{"run": {"recipe": "mars"}}', "unreadable", "was written by another version"),
    "half a job": ("job.json", b'{"job": "7', "unreadable", "job.json cannot be read"),
    "a job of numbers": ("job.json", b'{"job": 7, "logs": "", "arguments": []}', "unreadable", "job.json cannot be read"),
    "half an evaluation": ("evaluations/test-00000002.json", b"{", "unreadable", "test-00000002.json cannot be read"),
    "half a start": ("restarts.jsonl", HALF, "finished", "damaged lines in restarts.jsonl: 1"),
    "odd metrics": ("metrics.jsonl", b'5\n{"loss": "x", "epoch": 1}\n{"step": 2, "lo\xff', "finished", ""),
}


def test_a_damaged_folder_has_a_row_and_hides_no_other(
    trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained.path, tmp_path / "mars/whole")
    for name, (file, content, _, _) in DAMAGED.items():
        shutil.copytree(trained.path, tmp_path / "mars" / name)
        (tmp_path / "mars" / name / file).write_bytes(content)
    (tmp_path / "mars/whole/evaluations/test-of mine.json").write_text("{}")
    assert main([str(tmp_path)]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert set(rows) == {"run", *(f"mars/{name}" for name in ("whole", *DAMAGED))}
    assert rows["mars/whole"][2:4] == ["finished", "2/2"]
    for name, (_, _, state, words) in DAMAGED.items():
        assert rows[f"mars/{name}"][2] == state
        assert words.replace(" ", "") in "".join(rows[f"mars/{name}"][7:9]).replace(" ", ""), rows[f"mars/{name}"]


def rows_of(table: str) -> dict[str, list[str]]:
    """Cells by run; the lines of a cell are joined, and one without a state goes on with the row above."""
    rows: list[list[str]] = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in re.split("[\u2502\u2503]", line)[1:-1]]
        if len(cells) == 9 and cells[2]:
            rows.append(cells)
        elif len(cells) == 9:
            rows[-1] = [before + more for before, more in zip(rows[-1], cells, strict=True)]
    return {cells[0]: cells for cells in rows}


def test_half_a_line_keeps_no_run_from_starting_again(tmp_path: Path) -> None:
    folder, whole = RunFolder(tmp_path), '{"job": "4", "restart": 0, "cause": "submitted", "step": 0}\n'
    (tmp_path / "restarts.jsonl").write_bytes(whole.encode() + HALF)
    (tmp_path / "stopped.json").write_text('{"job": ')
    announce_start(folder, SlurmJob(id="4", restarts=2))
    found = read_restarts(tmp_path)
    assert [start["restart"] for start in found.starts] == [0, 2] and found.damaged == 1
    assert (tmp_path / "restarts.jsonl").read_bytes().endswith(b"\n")


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (119, "119 s"), (600, "10 min"), (9000, "2 h"), (4e5, "5 d")])
def test_ages(seconds: float, words: str) -> None:
    assert age_in_words(seconds) == words
