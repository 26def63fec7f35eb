"""Every command of tbps/data/pretraining.md is tried at small size; each of its data sets is trained on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from page_commands import try_tbps, try_training
from small_world import IMAGE_PX, REPOSITORY, World, metrics, run_recipe
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
    monkeypatch.chdir(tmp_path)
    trained = []
    for command in commands_of(PAGE):
        if command.startswith("tbps"):
            try_tbps(command)
        else:
            trained.append(try_training(command, world, tmp_path / "runs", root=str(world.cuhk_pedes)))
    assert trained == ["pretrain_mals/luperson-mllm", "irra/tiny", "pretrain_mals/ham-pedes"]


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", NEW)
def test_folder_and_shards_train_alike(world: World, tmp_path: Path, benchmark: Benchmark) -> None:
    """Checked and packed by the commands; the same losses to the last bit from both, with loader workers and dropout."""
    _write(tmp_path / "folder", benchmark)
    assert main(["data", "doctor", str(tmp_path / "folder"), "--benchmark", benchmark, "--decode"]) == 0
    assert main(["data", "shard", str(tmp_path / "folder"), str(tmp_path / "shards"), "--benchmark", benchmark]) == 0
    logged = []
    for place in ("folder", "shards"):
        words = [*world.overrides(tmp_path / place / "runs", recipe="pretrain_mals", max_steps=2), "--data.workers", "2"]
        words += ["--data.benchmark", benchmark, "--data.root", str(tmp_path / place), "--loop.log-steps", "1"]
        assert run_recipe("pretrain_mals", "tiny", *words, "--method.bert.dropout", "0.1") == 0
        logged.append(metrics(tmp_path / place / "runs/pretrain_mals/tiny"))
    assert logged[0] == logged[1] and [line["step"] for line in logged[0]] == [1, 2]
