"""BAMG from help to report: adapters on a frozen CLIP, two rankings, a step shared out, kills; maps to train by alone."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from interrupted_run import Chaos
from small_world import LAUNCH_TWO, World, assert_one_sentence, call, metrics, run_recipe, spread

from tbps.runs.checkpoint import read_tensors

STEPS = 4
TOLERANCE = 1e-5
LOSSES = {"loss/itc", "loss/itm", "loss/mgm", "loss/mlm"}
NUMBERS = {"temperature", "pairs_matched", "negatives_refused", "words_guessed", "mgm_of_masked", "mgm_target_variance"}


def arguments(world: World, runs: Path, *changes: str) -> list[str]:
    """Four steps of 16 pairs in two groups, without an evaluation."""
    alone = ["--evaluation.every-epochs", "0", "--evaluation.test", "False", "--loop.log-steps", "1"]
    sizes = ["--data.batch-pairs", "16", "--data.group-pairs", "8", "--data.workers", "1"]
    return ["tiny", *world.overrides(runs, recipe="bamg", max_steps=STEPS), *alone, *sizes, *changes]


def state(run_folder: Path) -> dict[str, Any]:
    return read_tensors(run_folder / f"checkpoints/step-{STEPS:08d}/model.safetensors")


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what one process does."""
    runs = tmp_path_factory.mktemp("alone")
    assert run_recipe("bamg", *arguments(world, runs)) == 0
    return runs / "bamg/tiny"


def test_help_lists_the_settings_and_the_label_its_doubts() -> None:
    done = call(sys.executable, "recipes/bamg.py", "cuhk-pedes", "--help")
    assert done.returncode == 0 and not done.stderr
    for setting in ("--method.fusion", "--method.graph.hide-masked", "--lora.targets", "--start.clip"):
        assert f"\n  {setting} " in done.stdout
    label = call(sys.executable, "recipes/bamg.py", "--help").stdout
    assert "Doubts   - Nobody has reproduced 79.98" in label and "recipes/clip.py tiny" in label


@pytest.mark.slow
def test_it_is_evaluated_by_both_rankings_without_maps_and_reports(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    words = [*world.overrides(tmp_path, recipe="bamg", max_steps=2), "--evaluation.rerank-k", "8", "--loop.log-steps", "1"]
    assert run_recipe("bamg", "tiny", *words) == 0
    run_folder = tmp_path / "bamg/tiny"
    lines = metrics(run_folder)
    assert all(line.keys() >= LOSSES | NUMBERS for line in lines[:2])
    found = json.loads((run_folder / "results/final-cuhk-pedes-test.json").read_text())["text_to_image"]
    assert found["reranked"]["rule"]["rerank_k"] == 8
    said = [line for line in caplog.messages if line.startswith("text to image by similarity")]
    assert f"rank-1 {found['coarse']['rank_1']:.2f}" in said[-1]
    assert f"the best 8 re-ranked: rank-1 {found['reranked']['rank_1']:.2f}" in said[-1]
    exhibits = json.loads((run_folder / "report/exhibits-final-cuhk-pedes-test.json").read_text())["exhibits"]
    titles = ["What words see", "The graph of a body", "Trained and frozen parameters"]
    assert [exhibit["title"] for exhibit in exhibits] == titles
    assert len(exhibits[1]["parts"][0]["tables"][0]["rows"]) == 5 and "Not drawn" not in exhibits[1]["explanation"]
    without = tmp_path / "no-maps"
    shutil.copytree(world.cuhk_pedes, without, ignore=shutil.ignore_patterns("parsing"))
    done = call(sys.executable, "-m", "tbps.command", "evaluate", str(run_folder), "--root", str(without))
    assert done.returncode == 0, done.stderr
    (second,) = {file.stem for file in (run_folder / "results").glob("*.json")} - {"final-cuhk-pedes-test"}
    exhibits = json.loads((run_folder / f"report/exhibits-{second}.json").read_text())["exhibits"]
    assert exhibits[1]["explanation"].startswith("Not drawn: ") and not exhibits[1]["parts"]
    again = json.loads((run_folder / f"results/{second}.json").read_text())["text_to_image"]
    assert (again["coarse"], again["reranked"]) == (found["coarse"], found["reranked"])


def test_training_without_maps_is_refused_at_the_start(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = tmp_path / "no-maps"
    shutil.copytree(world.cuhk_pedes, without, ignore=shutil.ignore_patterns("parsing"))
    assert run_recipe("bamg", *arguments(world, tmp_path), "--data.root", str(without)) == 2
    assert_one_sentence(capsys.readouterr().err, "has no parsing maps of Pascal-Person-Part", "tbps parse")


@pytest.mark.slow
def test_adapters_positions_and_heads_are_trained_and_nothing_else(world: World, alone: Path) -> None:
    found, before = state(alone), read_tensors(world.clip)
    assert not found.keys() & {name for name in before if name != "towers.image.positions"}
    assert (found["towers.image.positions"] != before["towers.image.positions"]).any()
    adapters = [name for name in found if name.startswith("towers.") and ".lora_" in name]
    assert len(adapters) == 2 * 2 * 2 * 4 and all(found[name].abs().max() > 0 for name in adapters)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "micro_batch"), [(0, 8), (1, 0), (2, 8), (3, 8)])
def test_two_processes(world: World, alone: Path, tmp_path: Path, stage: int, micro_batch: int) -> None:
    words = arguments(world, tmp_path, "--data.micro-batch-pairs", str(micro_batch))
    done = call(*LAUNCH_TWO, "recipes/bamg.py", *words, **spread(stage))
    assert done.returncode == 0, done.stderr
    _assert_same(tmp_path / "bamg/tiny", alone)


@pytest.mark.slow
def test_micro_batches_and_activation_checkpointing_change_nothing_and_bfloat16_little(
    world: World, alone: Path, tmp_path: Path
) -> None:
    changes = ["--data.micro-batch-pairs", "8", "--loop.activation-checkpointing", "True"]
    assert run_recipe("bamg", *arguments(world, tmp_path, *changes)) == 0
    _assert_same(tmp_path / "bamg/tiny", alone)
    half = arguments(world, tmp_path, "--name", "bf16", "--loop.precision", "bf16", "--lora.base", "bf16")
    done = call(sys.executable, "recipes/bamg.py", *half)
    assert done.returncode == 0, done.stderr
    losses, plain = ([line["loss"] for line in metrics(folder)[:STEPS]] for folder in (tmp_path / "bamg/bf16", alone))
    assert losses[0] != plain[0] and losses == pytest.approx(plain, rel=0.03)


def _assert_same(found: Path, alone: Path) -> None:
    for line, other in zip(metrics(found)[:STEPS], metrics(alone), strict=False):
        assert line == pytest.approx(other, rel=TOLERANCE, abs=1e-6), f"step {line['step']}"
    weights, others = state(found), state(alone)
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        # One number added to all keys changes no softmax: a key's bias has no gradient but rounding.
        if not name.endswith("key.bias"):
            # Adam divides by the size of a gradient: where a word's is small, so is not its rounding.
            bound = 20 * TOLERANCE * others[name].abs().max().item()
            assert (tensor - others[name]).abs().max().item() <= bound, name


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_killed_and_stopped_at_random_moments(world: World, tmp_path: Path, stage: int) -> None:
    """`python -m tests.chaos --recipe bamg --zero 2 --times 10` makes as many as one likes."""
    Chaos(world, tmp_path, seed=21 + stage, say=lambda line: None, recipe="bamg", stage=stage).interrupt(1)
