"""Pretrain on MALS by a batch script, fine-tune by another with and without it, and set both beside each other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cluster_jobs import Cluster
from small_world import AS_RECIPES_TRAIN, World, call

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("slurm")]

TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1")


@pytest.mark.parametrize(("method", "small"), [("mars", "tiny"), ("aptm", "tiny-aptm")])
def test_pretrained_then_fine_tuned_then_one_table(
    cluster: Cluster, world: World, tmp_path: Path, method: str, small: str
) -> None:
    runs = tmp_path / "runs"

    def complete(script: str, *words: str) -> str:
        """Submit a script of slurm/, wait for its end; the log."""
        log = tmp_path / f"log-{len(list(tmp_path.glob('log-*')))}"
        job = cluster.submit(f"--output={log}", *TWO_NODES, f"slurm/{script}.sh", *words)
        assert cluster.state_at_end(job) == "COMPLETED", log.read_text()
        return log.read_text()

    pretraining = [*world.overrides(runs, recipe="pretrain_mals", max_steps=4), *AS_RECIPES_TRAIN]
    assert "step 4/4" in complete("pretrain_mals", small, *pretraining)
    pretrained = runs / "pretrain_mals" / small
    tuning = [f"recipes/{method}.py", "tiny", *world.overrides(runs, recipe=method, max_steps=4), *AS_RECIPES_TRAIN]
    said = complete("finetune", *tuning, "--name", "with", "--start.weights", str(pretrained))
    assert f"starting from {pretrained}/checkpoints/step-00000004/model.safetensors" in said
    assert "starting from random weights" in complete("finetune", *tuning, "--name", "without")

    zero_shot = call(
        *(sys.executable, "-m", "tbps.command", "evaluate", str(pretrained), "--on", "all", "--root", str(world.folder))
    )
    assert zero_shot.returncode == 0, zero_shot.stderr
    table = call(sys.executable, "-m", "tbps.command", "results", str(runs), COLUMNS="200").stdout
    print(zero_shot.stdout + table)
    for line in (f"{method}/with", f"{method}/without", f"pretrain_mals/{small}"):
        assert line in table, table
    assert "mals to cuhk-pedes" in table and "mals to rstpreid" in table
