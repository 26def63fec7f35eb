"""Every command of tbps/convert/README.md is tried at small size, in its order, on one trained run."""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_commands import try_tbps
from small_world import REPOSITORY, World, run_recipe
from test_readme import commands_of

from tbps.command import main
from tbps.reporting.results import final_metrics, read_results
from tbps.scoring import Asked, score

PAGE = (REPOSITORY / "tbps/convert/README.md").read_text(encoding="utf-8")


def test_readme_points_to_the_page() -> None:
    assert "`tbps/convert/README.md`" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run where the page has it, and pictures."""
    folder = tmp_path_factory.mktemp("hand_on")
    words = ("--name", "cuhk-pedes", "--evaluation.rerank-k", "0")
    assert run_recipe("irra", "tiny", *world.overrides(folder / "runs", recipe="irra", max_steps=3), *words) == 0
    (folder / "pictures").symlink_to(world.cuhk_pedes / "imgs")
    (folder / "data").mkdir()
    (folder / "data/CUHK-PEDES").symlink_to(world.cuhk_pedes)
    (folder / "captions.txt").write_text("A woman in a red coat.\nA man.\n")
    return folder


@pytest.mark.slow
def test_every_command_of_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tried = []
    for command in commands_of(PAGE):
        tried.append(" ".join(command.split(" ")[:2]))
        if "--push" in command:
            assert main(shlex.split(command)[1:]) == 2  # tests/convert/test_hub.py pushes to a hub of its own
            assert "the Hugging Face hub" in capsys.readouterr().err
        elif command.startswith("tbps"):
            try_tbps(command)
        else:  # of the second, and of the lines behind it: tests/convert/test_every_method.py
            assert command in ('pip install -e ".[onnx]"', "python -m venv fresh")
    expected = ["tbps export", "pip install", "tbps export", "python -m"]
    assert tried == [*expected, "tbps evaluate", "tbps embed", "tbps embed", "tbps export"]
    names = Path("vectors/pictures.txt").read_text().splitlines()
    assert np.load("vectors/pictures.npy").shape == (len(names), 64) and len(names) > 100
    card = (folder / "exported/irra/README.md").read_text()
    (results,) = read_results(folder / "runs/irra/cuhk-pedes")
    metrics = final_metrics(results)
    row = f"| cuhk-pedes | test | final | similarity | {metrics['rank_1']:.2f} | {metrics['rank_5']:.2f} |"
    assert row in card and "no published figures beside these" in card and "Published on the same" not in card
    assert json.loads((folder / "exported/irra/results.json").read_text()) == [results]
    scored = score("exported/irra", Asked(root="data/CUHK-PEDES"))
    assert scored.file is None
    differs = {"purpose", "date", "seconds"}  # of an exported model all is a trial
    assert {name for name, value in results.items() if scored.results[name] != value} <= differs


def test_python_lines_of_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the run in place of its export."""
    monkeypatch.chdir(folder)
    (block,) = re.findall(r"^    import tbps\n(?:\n|    .*\n)+", PAGE, flags=re.MULTILINE)
    pictures = sorted((folder / "data/CUHK-PEDES/imgs").rglob("*.jpg"))
    for name, picture in zip(("a.jpg", "b.jpg"), pictures):
        Path(name).write_bytes(picture.read_bytes())
    found: dict[str, Any] = {}
    exec(textwrap.dedent(block).replace("exported/irra", "runs/irra/cuhk-pedes"), found)
    assert found["text"].shape == (1, 64) and found["images"].shape == (2, 64)
    assert np.abs(found["similarity"] - found["text"] @ found["images"].T).max() < 1e-5


def test_an_exported_model_names_no_data(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(folder / "runs/irra/cuhk-pedes"), str(tmp_path / "model")]) == 0
    for words, sentence in (
        ((), "an exported model names no data; say where cuhk-pedes lies: --root FOLDER"),
        (("--on", "all", "--root", str(tmp_path)), "model cannot be scored on any benchmark: cuhk-pedes is left out: "),
    ):
        capsys.readouterr()
        assert main(["evaluate", str(tmp_path / "model"), *words]) == 2
        assert sentence in capsys.readouterr().err
    root = f"cuhk-pedes={folder}/data/CUHK-PEDES"
    assert main(["evaluate", str(tmp_path / "model"), "--on", "all", "--root", root]) == 0
    said = capsys.readouterr().out
    assert "cuhk-pedes test, trial" in said and "cuhk-pedes: of an exported model: nothing is written" in said
    assert "rstpreid is left out: " in said
