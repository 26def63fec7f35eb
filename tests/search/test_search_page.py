"""Every command of tbps/search/README.md is tried at small size, in its order, on pictures of the small world."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from indexing import copy_pictures
from PIL import Image
from small_world import LAUNCH_TWO, REPOSITORY, World, call
from test_readme import commands_of
from toy_video import write_video

from tbps.command import main
from tbps.search.index import Index
from tbps.search.people import Detector

PAGE = (REPOSITORY / "tbps/search/README.md").read_text(encoding="utf-8")


def test_readme_points_to_the_page() -> None:
    assert "`tbps/search/README.md`" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.xdist_group("people in frames")
def test_every_command_of_the_page(
    world: World,
    matching_run: Path,
    frames: Path,
    detector: Detector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy_pictures(world.cuhk_pedes, tmp_path / "photos", number=24)
    shutil.copytree(frames, tmp_path / "frames")
    shutil.copy(detector.source, tmp_path / "detector.pth")
    (tmp_path / "clips").mkdir()
    scene_HWC = np.asarray(Image.open(frames / "5.png"))
    write_video(tmp_path / "clips/a.mp4", [scene_HWC] * 10, rate=2)
    shutil.copytree(world.shards, tmp_path / "shards/mals")
    (tmp_path / "photos/chosen.txt").write_text("000.jpg\n001.jpg\n")
    shutil.copytree(matching_run, tmp_path / "runs/irra/cuhk-pedes")
    monkeypatch.chdir(tmp_path)
    tried = []
    for command in commands_of(PAGE):
        words = shlex.split(command)
        if words[0] == "torchrun":
            shutil.rmtree("photos.index")
            _in_a_shell(command.replace("torchrun --nproc_per_node 2", shlex.join(LAUNCH_TWO)), tmp_path)
        elif words[0] == "sbatch":
            script = next(word for word in words if word.startswith("slurm/"))
            assert call("bash", "-n", str(REPOSITORY / script)).returncode == 0  # tests/cluster submits it
        elif "|" in words:
            said = _in_a_shell(command.replace("tbps", f"{sys.executable} -m tbps.command", 1), tmp_path)
            assert len(said.splitlines()) == 20
        elif words[0] == "python":
            said = _in_a_shell(f"{sys.executable} {REPOSITORY / words[1]} --rows 3000 --width 64 --queries 10", tmp_path)
            assert said.count("recall at 10 of 10 other queries: 1.0000") == 2 and said.count("p95") == 4
        elif words[0] == "tbps":
            if "--faiss" in words:
                _copy_often(tmp_path / "photos", 27)
            assert main(words[1:]) == 0, command
        tried += [word for word in words[:7] if word in ("index", "search")]
    assert (tried.count("index"), tried.count("search")) == (9, 8)
    said = capsys.readouterr().out
    assert "faiss: codes of 672 rows built in" in said and "648 of the new ones are copies of others" in said
    assert "24 pictures of" in said and "(24 unchanged)" in said and "64 pictures of" in said
    assert re.search(r"frames.index: \d+ pictures in \d files of", said)
    assert re.search(r"clips.index: \d+ pictures in 1 files of", said)
    assert [Index.open(Path(f"{name}.index")).num_pictures for name in ("photos", "chosen", "mals")] == [24 * 28, 2, 64]
    assert Path("found.html").read_text().count("<img ") == 20
    lines = re.search(r"^ {4}from pathlib import Path\n(?:(?: {4}.*)?\n)+", PAGE, flags=re.MULTILINE)
    assert lines is not None
    names: dict[str, Any] = {}
    exec(textwrap.dedent(lines[0]), names)
    assert len(names["found"].hits) == 5 and names["index"].thumbnail(0).startswith(b"\xff\xd8")


def _copy_often(folder: Path, times: int) -> None:
    for file in sorted(folder.glob("*.jpg")):
        for number in range(times):
            shutil.copy(file, file.with_name(f"{file.stem}-{number}.jpg"))


def _in_a_shell(command: str, folder: Path) -> str:
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = call("sh", "-c", f"cd {shlex.quote(str(folder))} && {command}", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    return done.stdout
