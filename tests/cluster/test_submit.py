"""`python -m launch.submit` on a real Slurm: to the end, through restarts, and refused."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY, Cluster, restarts, steps_done
from small_world import AS_RECIPES_TRAIN, World, assert_one_sentence, metrics

from launch.job import RecipeJob, make_executor
from launch.job import submit as submit_jobs
from launch.job_record import read_record
from launch.site import Site, read_site

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("slurm")]

TOY = REPOSITORY / "tests/extension/toy"
HOSTILE = 'it\'s a "run" & $HOME; `ls`'
SUBMIT = (sys.executable, "-m", "launch.submit", "recipes/mars.py", "tiny", "--cluster", "testbed")


def job_of(run_folder: Path) -> str:
    record = read_record(run_folder)
    assert record is not None
    return record.job


@pytest.mark.parametrize("settings", ["cpu", "zero2"])
def test_two_ranks_on_two_nodes_are_followed_to_the_end(
    cluster: Cluster, world: World, tmp_path: Path, settings: str
) -> None:
    overrides = [*world.overrides(tmp_path / "my runs", max_steps=4), "--name", HOSTILE]
    done = cluster.call(*SUBMIT, "--nodes", "2", "--accelerate", settings, *overrides, "--follow")
    run_folder = tmp_path / "my runs/mars" / HOSTILE
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].startswith(f"job {job_of(run_folder)}: 2 x 1 processes, at most 1 h 00 min a start;")
    assert done.stdout.splitlines()[-1].startswith("finished, step 4 of 4, loss ")
    facts = cluster.facts(job_of(run_folder))
    assert (facts["JobState"], facts["NumNodes"]) == ("COMPLETED", "2")
    assert [line["step"] for line in metrics(run_folder) if "split" not in line] == [1, 2, 3, 4]
    assert sorted(file.name for file in (run_folder / "jobs").glob("*.err")) == [
        f"{job_of(run_folder)}_{rank}_log.err" for rank in (0, 1)
    ]


@pytest.mark.parametrize("number", [signal.SIGUSR2, None], ids=["as at the time limit", "scontrol requeue"])
def test_a_job_goes_on_after_a_restart(cluster: Cluster, world: World, tmp_path: Path, number: int | None) -> None:
    steps = 20
    overrides = [
        *world.overrides(tmp_path, max_steps=steps),
        "--loop.log-steps",
        "1",
        "--schedule.epochs",
        "20",
        *AS_RECIPES_TRAIN,
        *("--data.batch-pairs", "8", "--data.group-pairs", "4"),
    ]
    done = cluster.call(*SUBMIT, "--nodes", "2", *overrides)
    assert done.returncode == 0, done.stderr
    run_folder = tmp_path / "mars/tiny"
    job = job_of(run_folder)
    cluster.wait_for("some steps", lambda: steps_done(run_folder) >= 3)
    stop = ("scontrol", "requeue", job) if number is None else ("scancel", f"--signal={number}", job)
    with cluster.paced(job, run_folder):
        assert cluster.call(*stop).returncode == 0
        cluster.wait_for("it starts again", lambda: len(restarts(run_folder)) == 2)
    assert cluster.state_at_end(job) == "COMPLETED"
    first, second = restarts(run_folder)
    assert (first["restart"], second["restart"]) == (0, 1) and second["step"] >= 3
    assert [line["step"] for line in metrics(run_folder) if "split" not in line] == list(range(1, steps + 1))
    told = cluster.call(sys.executable, "-m", "launch.status", str(tmp_path)).stdout
    assert "finished" in told and f"{steps}/{steps}" in told and f"1 ({second['cause'].split()[0]}" in told
    # both starts are in the log
    assert (run_folder / f"jobs/{job}_0_log.err").read_text().count("Slurm job ") == 2


def test_a_signal_before_training_restarts_the_job(cluster: Cluster, world: World, tmp_path: Path) -> None:
    done = cluster.call(*SUBMIT, *world.overrides(tmp_path, max_steps=2), *AS_RECIPES_TRAIN)
    assert done.returncode == 0, done.stderr
    run_folder = tmp_path / "mars/tiny"
    job = job_of(run_folder)
    cluster.wait_for("it has started", (run_folder / "restarts.jsonl").exists)
    assert not (run_folder / "metrics.jsonl").exists(), "training is still being prepared"
    assert cluster.call("scancel", "--signal=USR2", job).returncode == 0
    assert cluster.state_at_end(job) == "COMPLETED"
    assert [line["restart"] for line in restarts(run_folder)] == [0, 1]


def test_the_cause_of_a_failure_is_shown(cluster: Cluster, world: World, tmp_path: Path) -> None:
    words = [*world.overrides(tmp_path, max_steps=2), "--data.root", str(tmp_path / "nowhere"), "--follow"]
    done = cluster.call(*SUBMIT, *words)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith(f"failed (mars: data.root {tmp_path}/nowhere is not a folder")
    assert cluster.facts(job_of(tmp_path / "mars/tiny"))["JobState"] == "FAILED"


def test_what_the_cluster_cannot_do_is_not_submitted(cluster: Cluster, world: World, tmp_path: Path) -> None:
    overrides = [*world.overrides(tmp_path / "runs"), "--data.group-pairs", "4"]
    for words, sentence in (
        (["--partition", "moon"], "partition 'moon' is not known to Slurm, expected one of main, urgent"),
        (["--nodes", "8"], "8 nodes are asked for, partition main has 4"),
        (["--gpus-per-node", "8"], "8 GPUs are asked for on each node, the largest node of partition main has 4"),
        (["--nodes", "3"], "world size 3 does not divide the 8 groups of a batch"),
    ):
        done = cluster.call(*SUBMIT, *words, *overrides)
        assert done.returncode == 2
        assert_one_sentence(done.stderr, sentence)
        assert done.stdout == ""
    assert cluster.call("squeue", "--noheader").stdout == ""
    assert not (tmp_path / "runs").exists()


def test_a_run_is_submitted_once(cluster: Cluster, world: World, tmp_path: Path) -> None:
    words = [*SUBMIT, *world.overrides(tmp_path, max_steps=500), "--schedule.epochs", "500"]  # cancelled at the end
    assert cluster.call(*words).returncode == 0
    done = cluster.call(*words)
    assert done.returncode == 2
    assert_one_sentence(done.stderr, f"mars/tiny is the run of job {job_of(tmp_path / 'mars/tiny')}, which is ", "scancel")
    assert len(cluster.call("squeue", "--noheader").stdout.splitlines()) == 1


def test_a_method_of_ones_own_is_submitted_from_its_own_folder(
    cluster: Cluster, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TOY, tmp_path / "lab/toy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "lab"), str(REPOSITORY)]))
    submit = [sys.executable, "-m", "launch.submit", "toy/recipe.py", "tiny", "--cluster", "testbed"]
    short = ["--schedule.max-steps", "4", "--schedule.epochs", "4", "--loop.log-steps", "1", "--loop.tensorboard", "False"]
    where = ["--data.root", str(world.cuhk_pedes), "--nodes", "2", "--accelerate", "zero2"]
    done = cluster.call(*submit, *where, *short, "--follow", cwd=tmp_path / "lab")
    run_folder = tmp_path / "lab/runs/toy/tiny"
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("finished, step 4 of 4, loss ")
    assert cluster.facts(job_of(run_folder))["NumNodes"] == "2"
    assert "rank 1 on" in (log := next((run_folder / "jobs").glob("*_0_log.err")).read_text()) and ", ZeRO-2" in log
    assert [line["step"] for line in metrics(run_folder) if "split" not in line] == [1, 2, 3, 4]
    listed = cluster.call(sys.executable, "-m", "tbps.command", "results", "runs", cwd=tmp_path / "lab")
    assert listed.returncode == 0 and "toy/tiny" in listed.stdout, listed.stderr


def test_what_sbatch_says_is_one_sentence(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    site: Site = read_site("testbed")
    executor = make_executor(
        Site(partition="main", accelerate=site.accelerate, sbatch={"reservation": "nobody's"}), folder=tmp_path, job_name="x"
    )
    job = RecipeJob(("recipes/mars.py", "tiny"), accelerate="cpu", run_folder=tmp_path)
    with pytest.raises(
        ValueError, match=r"^Slurm does not take the job: .*reservation.*; change what it names and submit again$"
    ):
        submit_jobs(executor, [job])
