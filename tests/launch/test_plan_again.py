"""A run is planned as it is launched: start, stop, plan again, go on, under every shipped launch setting."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from rank_process import Tasks
from small_world import REPOSITORY, World, assert_one_sentence

from launch.accelerate_settings import FOLDER, settings_environment, settings_file
from launch.job_record import JobRecord, write_record
from launch.planned_run import plan_run
from launch.site import Site
from launch.submit import main as submit
from launch.sweep import plan_points
from launch.sweep_points import read_sweep
from tbps.recipe_command import read_overrides, read_variants
from tbps.runs.run_folder import OpenRunFolder, RunFolder
from tbps.training.launch_settings import as_launched

REAL = ["--data.workers", "1", "--method.bert.dropout", "0.1", "--loop.log-steps", "1"]
UNSCORED = ["--evaluation.selection", "last", "--evaluation.test", "False", "--evaluation.every-epochs", "0"]
SETTINGS = sorted(file.stem for file in FOLDER.glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Recipes are named as in the README, and no Slurm of this machine is asked."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_trained_under_every_shipped_setting_is_what_is_planned(
    name: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recipes/mars.py", "tiny", *world.overrides(tmp_path)]
    run = read_overrides(read_variants(words[0])[words[1]], words[2:], program="mars")
    for _ in range(2):  # as a rank opens its folder, at the start and when it goes on
        with pytest.MonkeyPatch.context() as launched:
            for variable, value in settings_environment(settings_file(name), num_processes=1).items():
                launched.setenv(variable, value)
            OpenRunFolder(as_launched(run)).close()
        planned = [*words, "--cluster", "testbed", "--accelerate", name, "--dry-run"]
        assert submit(planned) == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bf16", "zero2"])
def test_start_stop_plan_again_and_go_on(
    name: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(REPOSITORY)
    number = 2 if name == "bf16" else 1
    arguments = ["recipes/mars.py", "tiny", *world.overrides(tmp_path / "runs", max_steps=8), *REAL, *UNSCORED]
    first = Tasks(tmp_path / "first", arguments, accelerate=name, number=number)
    first.wait_for_log("step 1/8")
    first.signal(signal.SIGUSR2)
    assert first.statuses() == [143] * number, first.told()
    planned = ["--cluster", "testbed", "--accelerate", name, "--gpus-per-node", str(number), "--dry-run"]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert submit([*arguments, *planned]) == 0, capsys.readouterr().err
    monkeypatch.undo()
    second = Tasks(tmp_path / "second", arguments, accelerate=name, number=number)
    assert second.statuses() == [0] * number, second.told()
    assert "going on from" in second.told()


def test_another_precision_than_at_the_start_is_refused_and_told(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for first, second, change in (("bf16", "ddp", "bf16 -> fp32"), ("ddp", "bf16", "fp32 -> bf16")):
        words = ["recipes/mars.py", "tiny", *world.overrides(tmp_path / first)]
        run = plan_run(words[0], words[1], words[2:], accelerate=first).run
        OpenRunFolder(run).close()
        RunFolder.of(run).metrics.write_text('{"step": 1}\n')
        asked = [*words, "--cluster", "testbed", "--dry-run", "--accelerate"]
        assert submit([*asked, first]) == 0, capsys.readouterr().err
        capsys.readouterr()
        assert submit([*asked, second]) == 2
        assert_one_sentence(
            capsys.readouterr().err,
            f"was started with another config (loop.precision: {change}); restore the old values (loop.precision also comes"
            " from launch settings: give --accelerate or --loop.precision as then) to go on",
        )
    # said in the recipe's words it is the same run
    assert submit([*asked[:-1], "--accelerate", "ddp", "--loop.precision", "fp32"]) == 0, capsys.readouterr().err
    words = ["recipes/mars.py", "tiny", *world.overrides(tmp_path / "bf16"), "--cluster", "testbed", "--dry-run"]
    assert submit([*words, "--loop.precision", "bf16"]) == 0, capsys.readouterr().err


def test_settings_that_cannot_be_are_said_before_anything_starts(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "half.yaml").write_text("distributed_type: MULTI_GPU\nmixed_precision: fp16\nnum_processes: 2\n")
    words = ["recipes/mars.py", "tiny", *world.overrides(tmp_path), "--cluster", "testbed", "--dry-run"]
    assert submit([*words, "--accelerate", str(tmp_path / "half.yaml")]) == 2
    assert_one_sentence(capsys.readouterr().err, "the launch settings ask for mixed precision 'fp16', expected no or bf16")


@pytest.mark.parametrize("log", ["mars: the disk is full\n", "torch.OutOfMemoryError: CUDA out of memory.\n"])
def test_a_sweep_tries_again_what_failed_under_its_settings(log: str, tmp_path: Path) -> None:
    file = tmp_path / "small.py"
    file.write_text(
        "from launch.sweep_points import Row, grid\n"
        'POINTS = grid("recipes/mars.py", "tiny", seeds=(1,), rows={"a": Row("--data.batch-pairs 64")})\n'
    )
    words = ["--runs", str(tmp_path / "runs")]
    sweep = read_sweep(str(file), words, accelerate="bf16")
    planned = sweep.points[0].planned
    OpenRunFolder(planned.run).close()  # as the job has opened it
    assert json.loads(planned.folder.config.read_text())["run"]["loop"]["precision"] == "bf16"
    logs = planned.folder.path / "jobs"
    logs.mkdir()
    (logs / "here.log").write_text(log)
    write_record(planned.folder.path, JobRecord(job="", logs=str(logs), arguments=planned.arguments))
    (standing,) = plan_points(read_sweep(str(file), words, accelerate="bf16"), {}, Site(accelerate="bf16"))
    assert (standing.state.kind, standing.is_due) == ("failed", True)
    assert standing.micro_batch_pairs == (32 if "memory" in log else 0)
    # the same rows in another precision are other runs, with folders of their own
    (other,) = plan_points(read_sweep(str(file), words), {}, Site())
    assert (other.state.kind, other.is_due) == ("new", True)
    named = read_sweep(str(file), [*words, "--loop.precision", "bf16"]).points[0].planned
    assert named.folder.path == planned.folder.path and "precision=bf16" in named.run.name
