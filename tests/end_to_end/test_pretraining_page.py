"""Every command of tbps/data/pretraining.md is tried at small size; each of its data sets is trained on."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import get_args

import pytest
from page_commands import try_tbps, try_training
from small_world import IMAGE_PX, LAUNCH_TWO, REPOSITORY, World, assert_one_sentence, call, metrics, run_recipe
from test_readme import commands_of

from tbps.command import main
from tbps.config.data import EVALUATED, Benchmark
from tbps.synthetic.world import write_world

PAGE = (REPOSITORY / "tbps/data/pretraining.md").read_text(encoding="utf-8")
NEW: tuple[Benchmark, ...] = ("luperson-mllm", "webperson", "synth-pedes", "ham-pedes")


def test_the_page_lists_what_can_be_pretrained_on() -> None:
    assert "`tbps/data/pretraining.md`" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z0-9][a-z0-9-]*)` \|", PAGE, flags=re.MULTILINE)
    assert set(listed) == {*get_args(Benchmark)} - {*EVALUATED, "coco"} | {"pairs"}


def _write(root: Path, benchmark: Benchmark) -> None:
    write_world(root, benchmark=benchmark, num_identities=40, seed=5, workers=1, image_px=IMAGE_PX, parsing=False)


@pytest.mark.slow
def test_every_command_of_the_page(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "data/LUPerson-MLLM", "luperson-mllm")
    _write(tmp_path / "data/PA-100K", "pa-100k")
    shutil.copytree(world.shards, tmp_path / "shards/mals")
    monkeypatch.chdir(tmp_path)
    trained = []
    for command in commands_of(PAGE):
        if command.startswith("tbps"):
            try_tbps(command)
        else:
            root = "demo/pa-100k" if "tiny-pa-100k" in command else str(world.cuhk_pedes)
            trained.append(try_training(command, world, tmp_path / "runs", root=root))
            if trained[-1] == "aptm/tiny-pa-100k":
                (tmp_path / "runs/aptm/tiny-pa-100k").rename(tmp_path / f"runs/aptm/{len(trained)}")
    attributes = ["aptm/tiny-pa-100k", "pretrain_mals/ham-pedes", "aptm/tiny-pa-100k"]
    assert trained == ["pretrain_mals/luperson-mllm", "irra/tiny", "pretrain_mals/mixed", *attributes]


def _train(world: World, benchmark: Benchmark, root: Path, runs: Path) -> list[str]:
    """Recipe, variant and overrides of two steps, with loader workers and dropout."""
    recipe, variant = ("aptm", "tiny-pa-100k") if benchmark == "pa-100k" else ("pretrain_mals", "tiny")
    words = [*world.overrides(runs, recipe="pretrain_mals", max_steps=2), "--data.workers", "2", "--data.root", str(root)]
    words += ["--data.benchmark", benchmark, "--loop.log-steps", "1", "--method.bert.dropout", "0.1"]
    return [recipe, variant, *words]


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", [*NEW, "pa-100k"])
def test_folder_and_shards_train_alike(world: World, tmp_path: Path, benchmark: Benchmark) -> None:
    """Checked and packed by the commands; the same losses to the last bit from both."""
    _write(tmp_path / "folder", benchmark)
    assert main(["data", "doctor", str(tmp_path / "folder"), "--benchmark", benchmark, "--decode"]) == 0
    assert main(["data", "shard", str(tmp_path / "folder"), str(tmp_path / "shards"), "--benchmark", benchmark]) == 0
    logged = []
    for place in ("folder", "shards"):
        recipe, variant, *words = _train(world, benchmark, tmp_path / place, tmp_path / place / "runs")
        assert run_recipe(recipe, variant, *words) == 0
        logged.append(metrics(tmp_path / place / "runs" / recipe / variant))
    assert logged[0] == logged[1] and [line["step"] for line in logged[0]] == [1, 2]


@pytest.mark.slow
def test_attributes_alone_on_two_processes_and_in_search(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Losses of one process; then the run is evaluated where there are captions, and refused where there are none."""
    _write(tmp_path / "data", "pa-100k")
    for place, launch in (("one", ()), ("two", LAUNCH_TWO)):
        recipe, variant, *words = _train(world, "pa-100k", tmp_path / "data", tmp_path / place)
        done = call(*(launch or (sys.executable,)), f"recipes/{recipe}.py", variant, *words)
        assert done.returncode == 0, done.stderr
    one, two = (metrics(tmp_path / place / "aptm/tiny-pa-100k") for place in ("one", "two"))
    names = [name for name in one[0] if name.startswith("loss")]
    assert set(names) == {"loss", "loss/attribute_itc", "loss/attribute_itm", "loss/attribute_mlm"}
    for left, right in zip(one, two, strict=True):
        assert all(left[name] == pytest.approx(right[name], abs=1e-5) for name in names)
    run_folder = str(tmp_path / "one/aptm/tiny-pa-100k")
    assert main(["evaluate", run_folder, "--on", "cuhk-pedes", "--root", str(world.cuhk_pedes)]) == 0
    capsys.readouterr()
    assert main(["evaluate", run_folder]) == 2
    assert_one_sentence(capsys.readouterr().err, "the data have no captions to search with; evaluate on others: --on")


@pytest.mark.slow
def test_own_attributes_by_sentences_of_ones_own(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "data", "pairs")
    table = (tmp_path / "data/pairs.csv").read_text(encoding="utf-8")
    # Two of the 27 attributes are left.
    lines = [re.sub(r",(-?\d) (-?\d)( -?\d){25}$", r",\1 \2", line) for line in table.splitlines()]
    (tmp_path / "data/pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    words = [*world.overrides(tmp_path, recipe="pretrain_mals", max_steps=1), "--data.benchmark", "pairs"]
    words += ["--data.root", str(tmp_path / "data"), "--evaluation.every-epochs", "0"]
    sentences = ("the person is a woman", "the person is a man", "the person is a child", "the person is an adult")
    own = ("--method.prompts", "own", "--method.own-prompts")
    assert run_recipe("pretrain_mals", "tiny-aptm", *words, *own, *sentences) == 0
    assert metrics(tmp_path / "pretrain_mals/tiny-aptm")[0]["loss/attribute_itc"] > 0
    for given, part in (
        ((*own, *sentences[:2]), "the data tell 2 attributes of an image, and the method's prompts pair up to 1, expected"),
        ((), "the data tell 2 attributes of an image, and the method's prompts pair up to 27, expected as many; set"),
        ((*own, *sentences[:3]), "method.own_prompts holds 3 sentences, expected two for each attribute; add the other"),
    ):
        capsys.readouterr()
        assert run_recipe("pretrain_mals", "tiny-aptm", *words, "--name", "other", *given) == 2
        assert part in capsys.readouterr().err.strip().splitlines()[-1]
