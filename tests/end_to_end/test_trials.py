"""Evaluating a trained run in other ways: nothing that it left is overwritten, and no trial is taken for its result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_world import World, run_recipe

from tbps.command import main
from tbps.reporting.report import write_report

STEPS = 2


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of runs: AGA trained, tested and reported, a checkpoint of every step kept."""
    runs = tmp_path_factory.mktemp("runs")
    words = [*world.overrides(runs, recipe="aga", max_steps=STEPS), "--data.workers", "1", "--method.bert.dropout", "0.1"]
    assert run_recipe("aga", "tiny", *words, "--loop.save-steps", "1") == 0
    return runs


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "runs")


def left(run: Path) -> dict[Path, bytes]:
    """What training left of its results, pictures and words."""
    files = [*(run / "results").iterdir(), *(run / "report").glob("*.json")]
    return {file: file.read_bytes() for file in files}


def table(runs: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["results", str(runs)]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("--rerank-k 7", "trial-cuhk-pedes-test-k7-tail-similarity-step-0000000"),
        ("--rerank-k 0", "trial-cuhk-pedes-test-k0-step-0000000"),
        ("--tail index", "trial-cuhk-pedes-test-k16-tail-index-step-0000000"),
        ("--image-to-text-rerank", "trial-cuhk-pedes-test-k16-tail-similarity-image-to-text-step-0000000"),
        ("--split train", "trial-cuhk-pedes-train-k16-tail-similarity-step-0000000"),
        ("", "trial-cuhk-pedes-test-k16-tail-similarity-step-0000000"),
        ("--split val", "validation-cuhk-pedes-val"),
        ("--on rstpreid --root RSTPREID", "cross-set-rstpreid-test"),
    ],
)
def test_another_evaluation_leaves_everything_of_the_final_one(
    runs: Path, world: World, capsys: pytest.CaptureFixture[str], words: str, name: str
) -> None:
    run = runs / "aga/tiny"
    before, lines = left(run), table(runs, capsys).splitlines()
    page = write_report(run).read_text()
    assert len(before) == 3 and (run / "results/final-cuhk-pedes-test.json") in before
    assert main(["evaluate", str(run), *words.replace("RSTPREID", str(world.rstpreid)).split()]) == 0
    printed = capsys.readouterr().out
    after = left(run)
    assert {file: after[file] for file in before} == before
    written = sorted(file.name for file in after.keys() - before.keys())
    assert len(written) == 3 and all(name in file for file in written), written
    assert f"written to {run}/results/{name}" in printed
    assert ("the final result stays as it is" in printed) == name.startswith("trial")
    now = table(runs, capsys).splitlines()
    if name.startswith("cross-set"):
        assert len(now) == len(lines) + 1 and "cuhk-pedes to rstpreid" in "".join(now)
    else:
        assert now == lines
    masked = page.partition("Masked words")[2].partition("<h2>")[0]
    assert masked and masked in write_report(run).read_text(), "the report still shows the words of the final evaluation"


@pytest.mark.slow
def test_a_run_that_was_not_tested_gets_its_final_result_once_it_has_ended(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs / "aga/tiny"
    final = run / "results/final-cuhk-pedes-test.json"
    by_training = json.loads(final.read_text())
    for folder in ("results", "evaluations"):
        shutil.rmtree(run / folder)
    last = run / f"checkpoints/step-{STEPS:08d}"
    last.rename(run / "not yet")
    assert main(["evaluate", str(run)]) == 0
    assert "trial, written to " in capsys.readouterr().out and not final.exists()
    (run / "not yet").rename(last)
    assert main(["evaluate", str(run)]) == 0
    assert f"final, written to {final}" in capsys.readouterr().out
    assert json.loads(final.read_text())["text_to_image"] == by_training["text_to_image"]
