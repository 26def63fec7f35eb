"""The scripts in slurm/ as a user submits them: unedited, with options, from odd places, with mistakes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from cluster_jobs import REPOSITORY, Cluster, restarts, weights_sha256
from small_world import AS_RECIPES_TRAIN, World, call, metrics
from tiny_parsers import maps_of, write_model

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("slurm")]

STEPS = 4
SCRIPTS = ("pretrain_mals", "finetune", "parse", "index", "sweep")
FOUR_RANKS = ("--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2")


def arguments(world: World, runs: Path) -> list[str]:
    """`tiny` for four ranks, a group each."""
    return [
        "tiny",
        *world.overrides(runs, recipe="pretrain_mals", max_steps=STEPS),
        "--data.group-pairs",
        "8",
        *AS_RECIPES_TRAIN,
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_unedited_script_fits_the_testbed(cluster: Cluster, script: str) -> None:
    done = cluster.call("sbatch", "--test-only", f"slurm/{script}.sh")
    assert done.returncode == 0 and "to start at" in done.stderr, done.stderr


def test_four_ranks_on_two_nodes_make_the_weights_of_four_local_processes(
    cluster: Cluster, world: World, tmp_path: Path
) -> None:
    local, remote = tmp_path / "local", tmp_path / "slurm"
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4")
    done = call(*launcher, "recipes/pretrain_mals.py", *arguments(world, local))
    assert done.returncode == 0, done.stderr
    found, expected = remote / "pretrain_mals/tiny", local / "pretrain_mals/tiny"
    found.mkdir(parents=True)
    shutil.copy(expected / "config.json", found)  # else each run measures anew which matrix product is the faster one

    job = cluster.submit(f"--output={tmp_path}/log", *FOUR_RANKS, "slurm/pretrain_mals.sh", *arguments(world, remote))

    assert cluster.state_at_end(job) == "COMPLETED", (tmp_path / "log").read_text()
    assert cluster.facts(job)["NumNodes"] == "2" and cluster.facts(job)["TresPerNode"] == "gres:gpu:2"
    assert weights_sha256(found, STEPS) == weights_sha256(expected, STEPS)
    assert metrics(found) == metrics(expected)
    assert [(line["job"], line["restart"], line["cause"], line["step"]) for line in restarts(found)] == [
        (job, 0, "submitted", 0)
    ]
    assert f"Slurm job {job}, restart 0 (submitted), from step 0" in (tmp_path / "log").read_text()


def test_four_tasks_on_two_nodes_write_the_maps_of_one_process(cluster: Cluster, world: World, tmp_path: Path) -> None:
    bare = shutil.ignore_patterns("parsing")
    alone, shared = (Path(shutil.copytree(world.cuhk_pedes, tmp_path / name, ignore=bare)) for name in ("alone", "shared"))
    model = write_model(tmp_path / "tiny-segformer")
    words = ("--benchmark", "cuhk-pedes", "--parser", str(model), "--batch-images", "4")
    done = call(sys.executable, "-m", "tbps.command", "parse", str(alone), *words)
    assert done.returncode == 0, done.stderr

    job = cluster.submit(f"--output={tmp_path}/log", *FOUR_RANKS, "slurm/parse.sh", str(shared), *words)

    log = tmp_path / "log"
    assert cluster.state_at_end(job) == "COMPLETED", log.read_text()
    assert maps_of(shared) == maps_of(alone) and len(maps_of(alone)) > 20
    for rank in range(4):
        assert f"written by process {rank} of 4" in log.read_text()


def test_checkout_with_spaces_and_its_own_environment(cluster: Cluster, tmp_path: Path) -> None:
    checkout = tmp_path / 'it\'s a "check out"'
    checkout.mkdir()
    for folder in ("slurm", "recipes", "launch"):
        shutil.copytree(REPOSITORY / folder, checkout / folder)
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/bash\necho "own python: $0"\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)

    job = cluster.submit("--output=%x.log", "slurm/finetune.sh", "recipes/mars.py", "--help", cwd=checkout)

    assert cluster.state_at_end(job) == "COMPLETED"
    log = (checkout / "finetune.log").read_text()
    assert f"own python: {python}" in log and "usage: mars.py {cuhk-pedes," in log


def test_users_mistake_is_one_sentence_and_ends_for_good(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(
        f"--output={tmp_path}/log", *FOUR_RANKS, "slurm/finetune.sh", "recipes/mars.py", "tiny", "--runs", str(tmp_path)
    )
    assert cluster.state_at_end(job) == "FAILED"
    log = (tmp_path / "log").read_text()
    assert "mars: " in log and "Traceback" not in log, log
    assert cluster.facts(job)["Restarts"] == "0" and cluster.facts(job)["Requeue"] == "0"


def test_submitted_from_another_folder(cluster: Cluster, tmp_path: Path) -> None:
    script = str(REPOSITORY / "slurm/finetune.sh")
    job = cluster.submit("--output=log", script, "recipes/mars.py", "tiny", cwd=tmp_path)
    assert cluster.state_at_end(job) == "FAILED"
    assert f"no recipes/ in {tmp_path}; submit from the folder that holds it" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--partition=nowhere", "invalid partition specified"),
        ("--nodes=9", "More processors requested than permitted|Node count specification invalid|not available"),
        ("--gpus-per-node=8", "not available"),
    ],
)
def test_what_the_cluster_does_not_have_is_not_submitted(cluster: Cluster, option: str, said: str) -> None:
    done = cluster.call("sbatch", option, "slurm/pretrain_mals.sh", "tiny")
    assert done.returncode and any(part in done.stderr for part in said.split("|")), done.stderr
    assert not cluster.call("squeue", "--noheader").stdout


def test_odd_job_name(cluster: Cluster, tmp_path: Path) -> None:
    name = 'it\'s "odd"\n$(touch here)'
    job = cluster.submit(f"--job-name={name}", "--output=log", str(REPOSITORY / "slurm/finetune.sh"), cwd=tmp_path)
    assert cluster.state_at_end(job) == "FAILED"  # there is no recipe in this folder
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log"]
