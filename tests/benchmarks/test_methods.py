"""The comparison of methods at tiny size: its table says what the runs' results say, and it goes on where it was."""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

import methods
import pytest
import ready_python

SIZE = ("--recipes", "albef", "--steps", "3", "--pretrain-steps", "2", "--identities", "24", "--pretrain-images", "24")


def run(tmp_path: Path, *words: str) -> int:
    return methods.main([*words, "--folder", str(tmp_path / "bench"), "--out", str(tmp_path / "methods.md")])


class _ReadyCommands:
    """What the benchmark needs of `subprocess`: its commands begin with their imports done."""

    PIPE, STDOUT = subprocess.PIPE, subprocess.STDOUT

    @staticmethod
    def run(command: list[str], *, cwd: Path, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        done = ready_python.run(command, folder=cwd, variables=env, timeout_s=300)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout + done.stderr)


@pytest.fixture(autouse=True)
def ready_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "subprocess", _ReadyCommands)


def results(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())["text_to_image"]


@pytest.mark.slow
def test_table_and_what_is_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, *SIZE, "--seeds", "7") == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "1 of 1 runs to train, 2 at a time: about 0.0 hours on so many free cores\n" in printed
    assert "1 of 1 trained, about 0 minutes left\n" in printed
    runs = tmp_path / "bench" / "runs"
    config = json.loads((runs / "albef/seed-7/config.json").read_text())["run"]
    assert config["method"]["bert"]["fusion_layer"] == 2 and config["method"]["bert"]["layers"] == 4
    assert config["start"]["weights"] == str(runs / "pretrain_coco/start") and config["loop"]["seed"] == 7
    before = {file: file.read_bytes() for file in runs.rglob("*.json*") if "report" not in file.parts}
    assert len({file.parents[1] for file in before if file.name.startswith("final-")}) == 2

    assert run(tmp_path, *SIZE, "--seeds", "7", "8") == 0, capsys.readouterr().err
    assert "1 of 2 runs to train" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in before} == before, "nothing is trained or scored again"
    each = [results(runs / f"albef/seed-{seed}/results/final-cuhk-pedes-test.json") for seed in (7, 8)]
    start = results(runs / "pretrain_coco/start/results/zero-shot-cuhk-pedes-test.json")
    cells, alone, floor = [], [], []
    for ranking in ("coarse", "reranked"):
        for metric in ("rank_1", "mAP"):
            values = [way[ranking][metric] for way in each]
            cells.append(f"{statistics.mean(values):.2f} +- {statistics.stdev(values):.2f}")
            alone.append(f"{start[ranking][metric]:.2f}")
            floor.append(f"{each[0]['chance'][metric]:.2f}")
    text = (tmp_path / "methods.md").read_text()
    rows = (("albef", cells), ("pretrain_coco, not fine-tuned", alone), ("chance", floor))
    assert "\n".join(f"| {name} | {' | '.join(numbers)} |" for name, numbers in rows) in text
    assert "3 steps of 32 pairs (of " in text and "seeds 7, 8; all start from the same weights: ALBEF after 2 steps" in text
    assert f"    python benchmarks/methods.py {' '.join(SIZE)} --seeds 7 8\n" in text

    # a run of other steps is no part of the table
    assert methods.results_of(runs / "albef/seed-7", 3)["step"] == 3
    with pytest.raises(ValueError, match="albef/seed-7 was tested after 3 steps, expected 5"):
        methods.results_of(runs / "albef/seed-7", 5)


@pytest.mark.slow
def test_recipes_of_another_text_encoder_with_maps_and_of_two_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ("--recipes", "bilma", "laip", "--steps", "3", "--identities", "24", "--seeds", "7")
    assert run(tmp_path, *size) == 0, capsys.readouterr().err
    runs = tmp_path / "bench" / "runs"
    bilma, laip = (json.loads((runs / name / "seed-7/config.json").read_text())["run"] for name in ("bilma", "laip"))
    assert bilma["data"]["captioning"]["vocabulary"] == "clip"
    assert laip["data"]["captioning"]["vocabulary"] == str(tmp_path / "bench/vocab.txt")
    assert bilma["schedule"]["second_stage_epoch"] == 0
    assert laip["schedule"]["second_stage_epoch"] == pytest.approx(laip["schedule"]["epochs"] * 30 / 45)
    scored = results(runs / "bilma/seed-7/results/final-cuhk-pedes-test.json")["coarse"]
    text = (tmp_path / "methods.md").read_text()
    assert f"| bilma | {scored['rank_1']:.2f} | {scored['mAP']:.2f} | - | - |\n" in text
    assert "the best 4 images of a caption are re-ranked, where a method has a matcher\n" in text


def test_the_whole_comparison_is_forecast_from_what_each_method_takes() -> None:
    bench, _ = methods.read_arguments([])
    assert bench.recipes == methods.RECIPES and set(methods.STEP_S) == set(methods.RECIPES)
    hours = len(bench.seeds) * sum(methods.START_S + bench.steps * methods.STEP_S[name] for name in bench.recipes) / 7200
    assert hours <= 3
    assert f"about {hours:.1f} hours" in bench.forecast(bench.recipes * len(bench.seeds))


def test_a_recipe_that_cannot_start_from_albef_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, *SIZE, "--recipes", "albef", "clip") == 2
    assert "recipes/clip.py reads clip tokens, expected BERT word pieces: with --pretrain-steps" in capsys.readouterr().err


def test_a_command_that_fails_is_told_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, *SIZE, "--identities", "3") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "num_identities is 3, expected at least 24" in error
    assert not (tmp_path / "methods.md").exists()


def test_a_world_of_another_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bench/cuhk-pedes").mkdir(parents=True)
    (tmp_path / "bench/cuhk-pedes/synthetic_world.json").write_text('{"num_identities": 30, "complete": true}')
    assert run(tmp_path, *SIZE) == 2
    assert "cuhk-pedes holds 30 people, expected 24; give another --folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "--steps is 0, expected 1 or more"),
        (["--at-a-time", "0"], "--at-a-time is 0, expected 1 or more"),
        (["--recipes", "alfeb"], "recipes/alfeb.py is not there; name files of recipes/ without .py"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        methods.main([*SIZE, *words])
    assert message in capsys.readouterr().err
