"""Every command of tbps/data/parsing.md is tried at small size, in its order, on one small world."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest
from small_world import IMAGE_PX, REPOSITORY, World, call
from test_readme import commands_of

from tbps.command import main

sys.path.append(str(REPOSITORY / "tests" / "parsing"))

PAGE = (REPOSITORY / "tbps/data/parsing.md").read_text(encoding="utf-8")
FETCHED = "mattmdjaga/segformer_b2_clothes"
"""Lies on Hugging Face's server: a folder stands for it."""


def test_readme_points_to_the_page() -> None:
    assert "`tbps/data/parsing.md`" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert FETCHED in (REPOSITORY / "slurm/parse.sh").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_command_of_the_page(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_parsers import write_model, write_schp

    from tbps.parsing.write_maps import images_to_parse

    bare = shutil.ignore_patterns("parsing")
    shutil.copytree(world.cuhk_pedes, tmp_path / "data/CUHK-PEDES", ignore=bare)
    images = images_to_parse(tmp_path / "data/CUHK-PEDES", "cuhk-pedes")
    write_model(tmp_path / FETCHED)
    shutil.copytree(tmp_path / FETCHED, tmp_path / "models/segformer")
    write_schp(tmp_path / "schp/CUHK-PEDES", images, "pascal", flat=False, image_px=IMAGE_PX)
    commands = commands_of(PAGE)
    assert [command.split()[0] for command in commands].count("tbps") == 5, "say here how a new one is tried"
    monkeypatch.chdir(tmp_path)
    for command in commands:
        words = shlex.split(command)
        if words[0] == "sbatch":
            assert call("bash", "-n", words[1]).returncode == 0  # tests/cluster submits it
        elif words[0] == "torchrun":
            shutil.rmtree("data/CUHK-PEDES/parsing")
            places = [str(tmp_path / word) if word.startswith(("data/", "models/")) else word for word in words]
            done = call(sys.executable, "-m", "torch.distributed.run", *places[1:])
            assert done.returncode == 0, done.stderr
        else:
            assert main(words[1:]) == 0, command
    assert {path.name for path in Path("data/CUHK-PEDES/parsing").iterdir()} == {"atr", "pascal"}
    assert {path.name for path in Path("demo/world/parsing").iterdir()} == {"atr", "pascal"}
    assert Path("shards/cuhk-pedes/tbps-index.json").exists()
