"""What is wrong with a job is said before anything is submitted; the script of what is right."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import pickle
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_world import REPOSITORY, World, assert_one_sentence, run_recipe

from launch.job import RecipeJob
from launch.job_record import JobRecord, write_record
from launch.planned_run import holder_of, plan_run
from launch.slurm import Queued
from launch.submit import check_not_queued, main
from tbps.runs.run_folder import RunFolder

CPU = ("--cluster", "testbed")
HOSTILE = 'it\'s a "run" $HOME; `ls` & *'


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Recipes are named as in the README, and no Slurm of this machine is asked."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def submit(*words: str) -> int:
    """`python -m launch.submit`; the exit status."""
    try:
        return main(list(words))
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def script(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a dry run prints."""
    assert submit(*words, "--dry-run") == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_script_asks_for_what_was_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--nodes",
        "2",
        "--gpus-per-node",
        "4",
        "--time",
        "12:00:00",
        "--partition",
        "gpu",
        "--account",
        "a",
        "--qos",
        "q",
    ]
    overrides = ["--data.batch-pairs", "64", "--runs", str(tmp_path)]
    lines = script(capsys, "recipes/mars.py", "cuhk-pedes", *words, "--accelerate", "zero2", *overrides).splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {
        "nodes=2",
        "ntasks-per-node=4",  # one task per GPU
        "gpus-per-node=4",
        "cpus-per-task=4",
        "time=720",
        "partition=gpu",
        "account=a",
        "qos=q",
        "signal=USR2@120",
        "requeue",
        "open-mode=append",
        "job-name=mars/cuhk-pedes",
    } <= asked
    assert not [line for line in asked if line.startswith("wckey")]
    (command,) = [line for line in lines if line.startswith("srun ")]
    assert "--cpus-per-task=4" in command and "--open-mode=append" in command and "--kill-on-bad-exit=1" in command
    assert "-m launch.requeue" in lines[lines.index(command) - 4], lines
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


def test_a_cluster_file_reaches_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    text = script(capsys, "recipes/mars.py", "cuhk-pedes", "--cluster", "example", "--gpus-per-node", "1")
    assert "\nmodule load cuda/12.4\n" in text
    assert "#SBATCH --constraint=a100\n" in text and "#SBATCH --account=my-project\n" in text


def test_a_dry_run_without_slurm_says_what_it_could_not_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("recipes/mars.py", "tiny", *CPU, "--dry-run") == 0
    assert "partition, nodes and GPUs are not checked: there is no sinfo on this machine" in capsys.readouterr().err
    assert submit("recipes/mars.py", "tiny", *CPU) == 2
    assert_one_sentence(capsys.readouterr().err, "there is no sinfo on this machine; submit from a login node")


def test_names_with_spaces_and_quotes_stay_one_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(capsys, "recipes/mars.py", "tiny", *CPU, "--name", HOSTILE, "--runs", str(tmp_path / "my runs"))
    (command,) = [line for line in text.splitlines() if line.startswith("srun ")]
    assert shlex.split(command)[-1] == str(tmp_path / "my runs/mars" / HOSTILE / "jobs")
    (name,) = [line for line in text.splitlines() if "--job-name" in line]
    assert shlex.split(name.removeprefix("#SBATCH "))[0] == f"--job-name=mars/{HOSTILE}"


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "recipe": (
        ("recipes/marz.py", "tiny"),
        "recipe 'recipes/marz.py' is not there, expected one of recipes/aga.py, recipes/albef.py, ",
    ),
    "no recipe": (("recipes/tiny.py", "tiny"), "recipes/tiny.py is no recipe: it has no VARIANTS"),
    "variant": (
        ("recipes/mars.py", "cuhk"),
        "has no variant 'cuhk', expected one of cuhk-pedes, icfg-pedes, rstpreid, tiny",
    ),
    "override": (("recipes/mars.py", "tiny", "--loop.sed", "1"), "(perhaps --loop.seed)"),
    "override's value": (("recipes/mars.py", "tiny", "--loop.seed", "x"), "--loop.seed"),
    "world size": (
        ("recipes/mars.py", "tiny", "--nodes", "3"),
        "world size 3 does not divide the 2 groups of a batch (data.batch_pairs 32 / data.group_pairs 16); change one of the"
        " three; world sizes that fit: 1, 2",
    ),
    "micro-batch": (
        ("recipes/mars.py", "tiny", "--data.micro-batch-pairs", "32", "--nodes", "2"),
        "data.micro_batch_pairs is 32, expected a divisor of the 16 pairs",
    ),
    "accelerate": (
        ("recipes/mars.py", "tiny", "--accelerate", "zero9"),
        "Accelerate settings 'zero9' not found; expected a file, or one of ",
    ),
    "cluster": (("recipes/mars.py", "tiny", "--cluster", "moon"), "cluster 'moon' is not known"),
    "time": (("recipes/mars.py", "tiny", "--time", "1h"), "the time limit is '1h'"),
    "no nodes": (("recipes/mars.py", "tiny", "--nodes", "0"), "nodes is 0"),
    "newline in the name": (("recipes/mars.py", "tiny", "--name", "a\n#SBATCH"), "the run's name is 'a\\n#SBATCH'"),
    "newline in the job's name": (
        ("recipes/mars.py", "tiny", "--job-name", "a\nb"),
        "the job's name is 'a\\nb', expected one",
    ),
    "newline in the folder": (("recipes/mars.py", "tiny", "--runs", "a\nb"), "the folder of runs is '"),
    "folder as name": (
        ("recipes/mars.py", "tiny", "--name", "a/b"),
        "the run's name is 'a/b', expected the name of a folder",
    ),
    "percent": (("recipes/mars.py", "tiny", "--name", "50%j"), "Slurm gives % and \\ a meaning"),
    "partition with a newline": (("recipes/mars.py", "tiny", "--partition", "a\nb"), "partition is 'a\\nb'"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("dry", [True, False])
def test_what_is_wrong_is_one_sentence(name: str, dry: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, sentence = WRONG[name]
    place = () if "--runs" in words else ("--runs", str(tmp_path / "runs"))
    assert submit(*words[:2], *CPU, *words[2:], *place, *(["--dry-run"] if dry else [])) == 2
    told = capsys.readouterr()
    assert_one_sentence(told.err, sentence)
    assert told.out == ""
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one of one step."""
    runs = tmp_path_factory.mktemp("trained")
    assert run_recipe("mars", "tiny", *world.overrides(runs, max_steps=1)) == 0
    return runs


def test_a_changed_config_is_shown(world: World, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recipes/mars.py", "tiny", *CPU, *world.overrides(trained, max_steps=1), "--dry-run"]
    assert submit(*words) == 0
    capsys.readouterr()
    assert submit(*words, "--optim.lr", "0.5") == 2
    assert_one_sentence(capsys.readouterr().err, "was started with another config (optim.lr: 0.002 -> 0.5)", "with --name")


def _hold(path: Path, ready: Any, done: Any) -> None:
    with path.open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        ready.set()
        done.wait(60)


@contextmanager
def held(run_folder: Path) -> Iterator[None]:
    """Another process works in the run folder, as far as its lock says."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(run_folder / "lock", ready, done))
    process.start()
    assert ready.wait(60)
    try:
        yield
    finally:
        done.set()
        process.join()


def test_a_second_copy_is_refused(world: World, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recipes/mars.py", "tiny", *CPU, *world.overrides(trained, max_steps=1), "--dry-run"]
    folder = RunFolder(trained / "mars/tiny")
    with held(folder.path):
        assert holder_of(folder).startswith("process ")
        assert submit(*words) == 2
        assert_one_sentence(capsys.readouterr().err, "is in use by another process (process ", "with --name")
    assert holder_of(folder) == ""
    assert submit(*words) == 0


def test_a_run_that_waits_in_the_queue_is_not_submitted_again(world: World, tmp_path: Path) -> None:
    planned = plan_run("recipes/mars.py", "tiny", world.overrides(tmp_path))
    write_record(planned.folder.path, JobRecord(job="7_1", logs="", arguments=planned.arguments))
    check_not_queued(planned, {"7_2": Queued(state="running", reason="")})
    with pytest.raises(
        ValueError, match=r"is the run of job 7_1, which is pending; wait for it, cancel it with scancel 7_1"
    ):
        check_not_queued(planned, {"7_1": Queued(state="pending", reason="Priority")})


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    planned = plan_run("recipes/mars.py", "tiny", ["--runs", str(tmp_path)])
    planned.folder.path.mkdir(parents=True)
    for text in ("{", json.dumps({"job": 1})):
        (planned.folder.path / "job.json").write_text(text)
        with pytest.raises(ValueError, match=r"job\.json cannot be read .* the run itself does not need it"):
            check_not_queued(planned, {})


def test_a_job_can_be_sent() -> None:
    job = RecipeJob(("recipes/mars.py", "tiny"), accelerate="cpu", run_folder=Path("runs"), also_on={"rstpreid": "data"})
    assert vars(pickle.loads(pickle.dumps(job))) == vars(job)
