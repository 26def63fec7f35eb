"""`tbps evaluate RUN --on all`: three benchmarks in one table, as each alone, and what is absent in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_world import IMAGE_PX, World, assert_one_sentence, run_recipe

from tbps.command import main
from tbps.synthetic.world import write_world

BENCHMARKS = ("cuhk-pedes", "icfg-pedes", "rstpreid")


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run of one step, `pretrain_mals/tiny`, and a fine-tuned one, `rasa/tiny`."""
    runs = tmp_path_factory.mktemp("runs")
    assert run_recipe("pretrain_mals", "tiny", *world.overrides(runs, recipe="pretrain_mals", max_steps=1)) == 0
    assert run_recipe("rasa", "tiny", *world.overrides(runs, recipe="rasa", max_steps=1)) == 0
    return runs


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture(scope="module")
def data(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three, under the names that they are published by."""
    data = tmp_path_factory.mktemp("data")
    (data / "CUHK-PEDES").symlink_to(world.cuhk_pedes)
    (data / "RSTPReid").symlink_to(world.rstpreid)
    size: dict[str, Any] = {"workers": 1, "image_px": IMAGE_PX, "parsing": False}
    write_world(data / "ICFG-PEDES", benchmark="icfg-pedes", num_identities=24, seed=5, **size)
    return data


def results(run: Path) -> dict[str, Any]:
    """By file name, without what differs between two evaluations of the same."""
    found = {file.name: json.loads(file.read_text()) for file in (run / "results").iterdir()}
    return {name: {**one, "date": "", "seconds": ""} for name, one in found.items()}


def lines_of(text: str, *parts: str) -> list[str]:
    return [line for line in text.splitlines() if all(part in line for part in parts)]


@pytest.mark.slow
def test_one_command_gives_the_table_and_the_results_of_three(
    runs: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, alone = runs / "pretrain_mals/tiny", shutil.copytree(runs / "pretrain_mals/tiny", runs / "pretrain_mals/alone")
    assert main(["evaluate", str(run), "--on", "all", "--root", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "left out" not in printed and printed.count("rank_1 / mAP") == 1
    places = dict(zip(BENCHMARKS, sorted(data.iterdir(), key=lambda place: place.name.lower()), strict=True))
    for benchmark, root in places.items():
        assert main(["evaluate", str(alone), "--on", benchmark, "--root", str(root)]) == 0
        one = json.loads((run / f"results/zero-shot-{benchmark}-test.json").read_text())
        (row,) = lines_of(printed, f"{benchmark} test, zero-shot", "│")
        for ranking in ("coarse", "reranked", "chance"):
            found = one["text_to_image"][ranking]
            assert f"{found['rank_1']:.2f} / {found['mAP']:.2f}" in row
        assert lines_of(printed, f"{benchmark}: zero-shot, written to {run}/results/zero-shot-{benchmark}-test.json")
    assert results(run) == results(alone)


@pytest.mark.slow
def test_a_data_set_that_is_absent_or_cannot_be_read_is_named_and_the_others_are_scored(
    runs: Path, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs / "rasa/tiny"  # CUHK-PEDES is its own: its root is known
    (tmp_path / "data/RSTPReid").mkdir(parents=True)
    assert main(["evaluate", str(run), "--on", "all", "--root", str(tmp_path / "data")]) == 0
    printed = capsys.readouterr().out
    (absent,) = lines_of(printed, "icfg-pedes")
    assert absent == (
        f"icfg-pedes is left out: {tmp_path}/data has no folder of that name; name it with --root icfg-pedes=ROOT"
    )
    (unread,) = lines_of(printed, "rstpreid")
    assert unread.startswith(f"rstpreid is left out: data.root {tmp_path}/data/RSTPReid is not rstpreid: looked for ")
    assert lines_of(printed, "cuhk-pedes test, trial") and len(results(run)) == 2
    words = ["--root", str(tmp_path / "data"), "--root", f"rstpreid={world.rstpreid}", "--rerank-k", "0"]
    assert main(["evaluate", str(run), "--on", "all", *words]) == 0
    printed = capsys.readouterr().out
    assert lines_of(printed, "rstpreid test, trial", " - ") and lines_of(printed, "icfg-pedes is left out")


@pytest.mark.slow
def test_a_split_that_one_of_them_lacks(runs: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(runs / "pretrain_mals/tiny"), "--on", "all", "--root", str(data), "--split", "val"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert f"icfg-pedes is left out: {data}/ICFG-PEDES has no val split (it has train, test)" in printed
    assert lines_of(printed, "rstpreid val, zero-shot")


@pytest.mark.slow
def test_words_that_name_no_place_are_one_sentence(runs: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, empty = str(runs / "pretrain_mals/tiny"), data.parent / f"{data.name}-empty"
    (empty / "rstpreid").mkdir(parents=True)
    (empty / "RSTPReid").mkdir()
    for words, parts in (
        (["nowhere"], ["--root nowhere is not a folder, expected one that holds cuhk-pedes, icfg-pedes, rstpreid"]),
        (["a", "b"], ["--root is a and b, expected one folder that holds all benchmarks"]),
        (["rstpreid=a", "rstpreid=b"], ["--root names rstpreid twice"]),
        (
            [str(empty)],
            [f"{run} cannot be scored on any benchmark: cuhk-pedes is left out", "RSTPReid and rstpreid in ", "may both be"],
        ),
    ):
        assert main(["evaluate", run, "--on", "all", *(part for word in words for part in ("--root", word))]) == 2
        assert_one_sentence(capsys.readouterr().err, *parts)
    assert main(["evaluate", run, "--on", "rstpreid", "--root", "a", "--root", "b"]) == 2
    assert_one_sentence(capsys.readouterr().err, "--root is a and b, expected one folder; several are for --on all")
