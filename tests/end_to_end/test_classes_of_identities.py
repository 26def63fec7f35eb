"""The number of training identities, of which a method has a class each, is part of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_world import REPOSITORY, World, run_recipe

from launch.planned_run import check_folder, plan_run
from tbps.command import main
from tbps.runs.checkpoint import read_tensors


def test_a_run_knows_its_identities(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    place = ("--runs", str(tmp_path), "--data.root", str(world.cuhk_pedes), "--data.cache", str(tmp_path / "cache/shards"))
    short = ("--data.workers", "0", "--schedule.max-steps", "2", "--loop.tensorboard", "False")
    arguments = [*place, *short]
    assert run_recipe("irra", "tiny", *arguments) == 0
    folder = tmp_path / "irra/tiny"
    number = json.loads((folder / "config.json").read_text())["run"]["data"]["num_identities"]
    assert number > 1 and f"{number} training identities, classes 0 to {number - 1}" in caplog.text
    weights = read_tensors(folder / "checkpoints/step-00000002/model.safetensors")
    assert len(weights["classifier.weight"]) == number
    # Who plans the run has not counted; whoever goes on with it, or evaluates it, finds the number there.
    check_folder(plan_run(str(REPOSITORY / "recipes/irra.py"), "tiny", arguments))
    assert run_recipe("irra", "tiny", *arguments) == 0 and "all 2 steps" in caplog.text
    assert main(["evaluate", str(folder), "--split", "val"]) == 0
    capsys.readouterr()
    assert run_recipe("irra", "tiny", *arguments, "--name", "other", "--data.num-identities", "9") == 2
    assert f"the training pairs show {number} identities, expected 9" in capsys.readouterr().err
    assert run_recipe("irra", "tiny", *arguments, "--data.limit-pairs", "40") == 2
    assert f"data.num_identities: {number} -> " in capsys.readouterr().err
