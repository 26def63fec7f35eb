"""Tasks of Slurm without the GPUs they were granted, and with a GPU that fails: who goes on, who does not, who is named."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from rank_process import Tasks
from small_world import REPOSITORY, World, assert_one_sentence

from launch.restarts import announce_start, read_restarts
from launch.slurm_job import SlurmJob
from tbps.runs.run_folder import RunFolder

pytestmark = pytest.mark.slow
REAL = ["--data.workers", "1", "--method.bert.dropout", "0.1", "--loop.log-steps", "1", "--loop.save-steps", "1"]
UNSCORED = ["--evaluation.selection", "last", "--evaluation.test", "False", "--evaluation.every-epochs", "0"]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")

# MARS, whose second process meets in its third step what CUDA or NCCL would say there.
_FAULTY = """
import os
from recipes.mars import tiny
from tbps.recipe_command import recipe_command
from tbps.training.step import Stepper
VARIANTS = {"tiny": tiny}
update = Stepper.update
def faulty(self, *given, **more):
    self.updates = getattr(self, "updates", 0) + 1
    if self.updates == 3 and os.environ["RANK"] == "1":
        raise RuntimeError(os.environ["FAULT"])
    return update(self, *given, **more)
Stepper.update = faulty
"""


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are named as in the README."""
    monkeypatch.chdir(REPOSITORY)


def arguments(world: World, tmp_path: Path, recipe: str = "recipes/mars.py") -> list[str]:
    return [recipe, "tiny", *world.overrides(tmp_path / "runs", max_steps=4), *REAL, *UNSCORED]


@NO_GPU
def test_granted_gpus_that_are_not_there_are_refused(world: World, tmp_path: Path) -> None:
    granted = {
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOB_GPUS": "0,1",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "ACCELERATE_USE_CPU": "false",
    }
    tasks = Tasks(tmp_path / "job", arguments(world, tmp_path), accelerate="", number=2, **granted)
    assert tasks.statuses() == [2, 2], tasks.told()
    sentences = [line for line in tasks.told().splitlines() if line.startswith("mars: ")]
    assert len(sentences) == 2 and len(set(sentences)) == 1, tasks.told()
    assert_one_sentence(
        sentences[0],
        f"rank 0 on {platform.node()} finds no GPU, though Slurm granted some (SLURM_JOB_GPUS=0,1); look there at nvidia",
        "or say that you want the CPU (ACCELERATE_USE_CPU=true, or --accelerate cpu)",
    )
    assert "Requeue=0" in tasks.asked.read_text()
    # said openly by the launch settings, it is no accident
    tasks = Tasks(tmp_path / "again", arguments(world, tmp_path), accelerate="cpu", number=2, **granted)
    assert tasks.statuses() == [0, 0], tasks.told()
    for rank in (0, 1):
        assert f"rank {rank} on {platform.node()}: CPU, gloo" in tasks.told()


def test_a_gpu_that_fails_is_an_accident_of_its_node(world: World, tmp_path: Path) -> None:
    (tmp_path / "mars.py").write_text(_FAULTY)
    words = arguments(world, tmp_path, str(tmp_path / "mars.py"))
    fault = "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported later"
    tasks = Tasks(tmp_path / "job", words, accelerate="", number=2, FAULT=fault)
    assert tasks.statuses() == [75, 75], tasks.told()
    told = f"rank 1 on {platform.node()}: CUDA error: uncorrectable ECC error encountered; its GPU or node is at fault"
    assert told in tasks.told() and "Traceback" not in tasks.told()
    assert "Requeue=0" not in tasks.asked.read_text()
    folder = RunFolder(tmp_path / "runs/mars/tiny")
    announce_start(folder, SlurmJob(id="1", restarts=1))  # the start that follows tells it
    cause = read_restarts(folder.path).starts[-1]["cause"]
    assert "uncorrectable ECC error" in cause and platform.node() in cause


def test_two_processes_on_one_gpu_are_the_users_error(world: World, tmp_path: Path) -> None:
    (tmp_path / "mars.py").write_text(_FAULTY)
    words = arguments(world, tmp_path, str(tmp_path / "mars.py"))
    tasks = Tasks(
        tmp_path / "job", words, accelerate="", number=2, FAULT="NCCL error\nDuplicate GPU detected : rank 1 and 0"
    )
    first, second = tasks.statuses()
    assert (first, second) == (1, 2), tasks.told()
    sentence = f"mars: rank 1 on {platform.node()} has no GPU of its own (Duplicate GPU detected : rank 1 and 0); start one"
    assert sentence in tasks.told() and "Traceback" not in tasks.told()
    assert "Requeue=0" in tasks.asked.read_text()
