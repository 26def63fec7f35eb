"""The demo's trainings at small size, one step each, from what is pretrained to the table that it prints."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
from small_world import World, run_recipe

from recipes import demo
from tbps.command import main
from tbps.config.run import Run
from tbps.recipe_command import read_overrides


def _runs() -> dict[Path, Run]:
    """The settings of each training."""
    variants = {folder: importlib.import_module(f"recipes.{folder.parent.name}").VARIANTS for folder in demo.trainings()}
    return {
        folder: read_overrides(variants[folder]["tiny"], list(words), program=folder.parent.name)
        for folder, words in demo.trainings().items()
    }


def test_each_training_starts_from_one_before_it_and_can_be_shared_by_two_processes() -> None:
    known = {""}
    shapes = set()
    for folder, run in _runs().items():
        assert run.start.weights in known
        known.add(str(folder))
        shapes.add((run.method.vit, run.method.bert, run.method.projection, run.data.image_px))  # type: ignore[attr-defined]
        assert run.data.batch_pairs // 2 % run.data.group_pairs == 0
    assert len(shapes) == 1


def test_with_and_without_pretraining_differ_in_how_long_and_how_fast_they_train_alone() -> None:
    scratch, tuned = (_runs()[folder] for folder in (demo.FROM_SCRATCH, demo.FINE_TUNED))
    assert scratch.evaluation == replace(tuned.evaluation, every_epochs=scratch.evaluation.every_epochs)
    assert scratch.data == tuned.data
    weights = replace(tuned.method.weights, pitm=scratch.method.weights.pitm)  # type: ignore[attr-defined]
    assert scratch.method == replace(tuned.method, weights=weights)  # type: ignore[call-arg]


@pytest.mark.slow
def test_from_pretraining_to_the_table(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")  # of the terminal
    for folder, words in demo.trainings().items():
        recipe = folder.parent.name
        small = world.overrides(Path("runs"), recipe=recipe, max_steps=1)
        rerank_k = words[words.index("--evaluation.rerank-k") + 1]
        given = ("tiny", "--name", folder.name, *words, *small, "--evaluation.rerank-k", rerank_k)
        assert run_recipe(recipe, *given) == 0, folder
    assert main(["evaluate", str(demo.PRETRAINED), "--on", "cuhk-pedes", "--root", str(world.cuhk_pedes)]) == 0
    capsys.readouterr()
    demo.summary(seconds=7.0)
    printed = capsys.readouterr().out
    number = r"\d+\.\d+"
    for label in ("zero-shot after", "fine-tuned without", "fine-tuned with"):
        row = next(line for line in printed.splitlines() if f"{label} pretraining" in line)
        assert len(re.findall(number, row)) >= 4, row
    assert f"report: {demo.FINE_TUNED}/report/report.html\n(7 s)\n" in printed
    assert (demo.FINE_TUNED / "report/report.html").exists()
