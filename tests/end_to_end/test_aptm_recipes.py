"""APTM's recipes: help, from the first step to the report, a step however it is shared out, kills, weights in and out."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from interrupted_run import Chaos
from small_world import LAUNCH_TWO, World, assert_one_sentence, call, metrics, run_recipe, spread

from tbps.command import main
from tbps.runs.checkpoint import read_tensors

APTM = {"aptm": "tiny", "pretrain_mals": "tiny-aptm"}
"""Recipes, and what APTM's small size is called there."""
STEPS = 4
TOLERANCE = 1e-5


@pytest.mark.parametrize("recipe", APTM)
def test_help_lists_the_settings(recipe: str) -> None:
    done = call(sys.executable, f"recipes/{recipe}.py", APTM[recipe], "--help")
    assert done.returncode == 0 and not done.stderr
    for setting in ("--data.batch-pairs", "--method.swin.depths", "--method.rewording.synonyms", "--start.vit"):
        assert f"\n  {setting} " in done.stdout


@pytest.mark.slow
def test_pretraining_then_fine_tuning_to_the_report(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert run_recipe("pretrain_mals", "tiny-aptm", *world.overrides(tmp_path, recipe="pretrain_mals")) == 0
    pretrained = tmp_path / "pretrain_mals" / "tiny-aptm"
    first = metrics(pretrained)[0]
    names = {"attribute_itc", "attribute_itm", "attribute_mlm", "itc", "itm", "mlm"}
    assert {f"loss/{name}" for name in names} == {name for name in first if name.startswith("loss/")}
    assert main(["evaluate", str(pretrained), "--on", "cuhk-pedes", "--root", str(world.cuhk_pedes)]) == 0
    assert (pretrained / "results/zero-shot-cuhk-pedes-test.json").exists()
    words = [*world.overrides(tmp_path, recipe="aptm"), "--evaluation.score-processes", "4"]
    assert run_recipe("aptm", "tiny", *words, "--start.weights", str(pretrained)) == 0
    assert f"starting from {pretrained}" in caplog.text
    run_folder = tmp_path / "aptm" / "tiny"
    lines = metrics(run_folder)
    assert [line["split"] for line in lines if "split" in line] == ["val", "test"]
    results = json.loads((run_folder / "results/final-cuhk-pedes-test.json").read_text())
    rule = {"rerank_k": 16, "tail": "similarity", "itc_weight": 0.002, "as_on_processes": 4}
    assert results["text_to_image"]["reranked"]["rule"] == rule
    page = (run_folder / "report/report.html").read_text()
    assert "matching + 0.002 similarity as on 4 processes" in page
    assert main(["evaluate", str(run_folder), "--score", "matching"]) == 0  # the run's four processes do not hold for it
    assert main(["evaluate", str(run_folder), "--score", "sum", "--score-processes", "2"]) == 0
    trials = [json.loads(file.read_text()) for file in (run_folder / "results").glob("trial-*.json")]
    rules = [trial["text_to_image"]["reranked"]["rule"] for trial in trials]
    assert {(rule["itc_weight"], rule.get("as_on_processes")) for rule in rules} == {(0.0, None), (0.002, 2)}
    assert main(["convert", str(run_folder), str(tmp_path / "official.pth"), "--export", "--official"]) == 0
    assert main(["convert", str(tmp_path / "official.pth"), str(tmp_path / "ours.safetensors")]) == 0
    again = [*world.overrides(tmp_path, recipe="aptm", max_steps=1), "--name", "again", "--evaluation.test", "False"]
    assert run_recipe("aptm", "tiny", *again, "--start.weights", str(tmp_path / "ours.safetensors")) == 0


def _arguments(world: World, runs: Path, recipe: str) -> list[str]:
    changes = ["--evaluation.every-epochs", "0", "--evaluation.test", "False", "--method.bert.dropout", "0.1"]
    real = ["--data.workers", "1", "--loop.log-steps", "1", "--data.group-pairs", "8"]
    return [APTM[recipe], *world.overrides(runs, recipe=recipe, max_steps=STEPS), *changes, *real]


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one process ran both recipes."""
    runs = tmp_path_factory.mktemp("one")
    for recipe in APTM:
        assert run_recipe(recipe, *_arguments(world, runs, recipe)) == 0
    return runs


def _assert_same(found: Path, recipe: str, alone: Path) -> None:
    ours, theirs = metrics(found / recipe / APTM[recipe]), metrics(alone / recipe / APTM[recipe])
    assert [line["step"] for line in ours[:STEPS]] == list(range(1, STEPS + 1))
    for line, other in zip(ours[:STEPS], theirs, strict=False):
        assert line == pytest.approx(other, rel=TOLERANCE), f"step {line['step']}"
    weights, others = (
        read_tensors(runs / recipe / APTM[recipe] / f"checkpoints/step-{STEPS:08d}/model.safetensors")
        for runs in (found, alone)
    )
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        bound = 10 * TOLERANCE * max(others[name].abs().max().item(), 1e-2)
        error = (tensor - others[name]).abs()
        # One number added to all keys changes no softmax: a key's bias has no gradient but rounding.
        if name.endswith("qkv.bias"):
            error = torch.cat([error.chunk(3)[0], error.chunk(3)[2]])
        if name.endswith("key_value.bias"):
            error = error.chunk(2)[1]
        assert error.max().item() <= bound, name


@pytest.mark.slow
def test_four_micro_batches_with_activation_checkpointing(world: World, alone: Path, tmp_path: Path) -> None:
    less = ["--data.micro-batch-pairs", "8", "--loop.activation-checkpointing", "True"]
    assert run_recipe("pretrain_mals", *_arguments(world, tmp_path, "pretrain_mals"), *less) == 0
    _assert_same(tmp_path, "pretrain_mals", alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "stage", "micro_batch"), [("pretrain_mals", 0, 0), ("aptm", 1, 0), ("aptm", 2, 8), ("pretrain_mals", 3, 0)]
)
def test_two_processes(world: World, alone: Path, tmp_path: Path, recipe: str, stage: int, micro_batch: int) -> None:
    words = [*_arguments(world, tmp_path, recipe), "--data.micro-batch-pairs", str(micro_batch)]
    done = call(*LAUNCH_TWO, f"recipes/{recipe}.py", *words, **spread(stage))
    assert done.returncode == 0, done.stderr
    _assert_same(tmp_path, recipe, alone)


@pytest.mark.slow
def test_killed_or_stopped_at_a_random_moment_under_zero_2(world: World, tmp_path: Path) -> None:
    Chaos(world, tmp_path, seed=23, say=lambda line: None, recipe="aptm", stage=2).interrupt(1)


@pytest.mark.slow
def test_bfloat16_changes_losses_little(world: World, alone: Path, tmp_path: Path) -> None:
    words = [*_arguments(world, tmp_path, "pretrain_mals"), "--name", "bf16", "--loop.precision", "bf16"]
    done = call(sys.executable, "recipes/pretrain_mals.py", *words)  # a process has one precision
    assert done.returncode == 0, done.stderr
    half, plain = (
        [line["loss"] for line in metrics(folder)[:STEPS]]
        for folder in (tmp_path / "pretrain_mals/bf16", alone / "pretrain_mals/tiny-aptm")
    )
    assert half[0] != plain[0] and half == pytest.approx(plain, rel=0.03)
    weights = read_tensors(tmp_path / f"pretrain_mals/bf16/checkpoints/step-{STEPS:08d}/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_missing_file_of_synonyms_is_one_sentence(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*world.overrides(tmp_path, recipe="aptm"), "--method.rewording.synonyms", "nowhere.txt"]
    assert run_recipe("aptm", "tiny", *words) == 2
    assert_one_sentence(capsys.readouterr().err, "method.rewording.synonyms nowhere.txt cannot be read")


def test_attributes_that_the_data_lack_are_refused(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*world.overrides(tmp_path, recipe="aptm"), "--method.weights.attribute-itc", "0.2"]
    assert run_recipe("aptm", "tiny", *words) == 2
    assert_one_sentence(capsys.readouterr().err, "attributes")
