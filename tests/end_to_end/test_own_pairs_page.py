"""Every command of tbps/data/own_pairs.md is tried at small size, in its order, on one small world."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from page_commands import try_tbps, try_training
from small_world import IMAGE_PX, REPOSITORY, World, metrics, run_recipe
from test_readme import commands_of

from tbps.data.annotations import read_annotations
from tbps.reporting.results import read_results
from tbps.synthetic.world import write_world

PAGE = (REPOSITORY / "tbps/data/own_pairs.md").read_text(encoding="utf-8")


def test_readme_points_to_the_page() -> None:
    assert "`tbps/data/own_pairs.md`" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_files_that_the_page_shows_are_read(tmp_path: Path) -> None:
    lines = re.search(r"^( {4}image,.*\n(?: {4}images/.*\n)+)", PAGE, flags=re.MULTILINE)
    assert lines is not None
    (tmp_path / "pairs.csv").write_text(lines[1].replace("    ", ""), encoding="utf-8")
    annotations = read_annotations(tmp_path, "pairs")
    assert len(annotations.split("train").caption) == 2 and annotations.split("train").num_identities == 1
    assert annotations.split("test").caption[0] == 'A woman wearing a "no war" shirt.'
    (tmp_path / "pairs.csv").unlink()
    shown = re.search(r"^ {4}(\{.*\})$", PAGE, flags=re.MULTILINE)
    assert shown is not None
    (tmp_path / "pairs.jsonl").write_text(shown[1], encoding="utf-8")
    assert list(read_annotations(tmp_path, "pairs").split("train").caption) == json.loads(shown[1])["caption"]


def _without(path: Path, *columns: str) -> None:
    """Take columns out of a CSV file."""
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name not in columns], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.slow
def test_every_command_of_the_page(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_world(tmp_path / "data/mine", benchmark="pairs", num_identities=40, seed=5, workers=1, image_px=IMAGE_PX)
    shutil.copytree(world.cuhk_pedes, tmp_path / "data/CUHK-PEDES")
    monkeypatch.chdir(tmp_path)
    shutil.move("data/mine/pairs.csv", "data/mine/people.csv")
    _without(Path("data/mine/people.csv"), "split")
    trained = []
    for command in commands_of(PAGE):
        if command.startswith("tbps"):
            try_tbps(command)
            continue
        bare = "--evaluation.test" in command  # as the page says: nothing but images and captions
        if bare:
            shutil.copy("data/mine/pairs.csv", "pairs.csv")
            _without(Path("data/mine/pairs.csv"), "identity", "split", "attributes")
        trained.append(try_training(command, world, tmp_path / "runs", root="data/CUHK-PEDES"))
        if bare:
            shutil.copy("pairs.csv", "data/mine/pairs.csv")
    assert trained == ["irra/mine", "clip/mine", "pretrain_mals/mine", "mars/tiny", "clip/demo"]
    assert len(read_annotations(Path("data/mine"), "pairs").split("test").image_path) > 4
    config = json.loads(Path("runs/pretrain_mals/mine/config.json").read_text())["run"]["data"]
    assert (config["benchmark"], config["root"]) == ("pairs", "shards/mine")
    assert Path("runs/irra/mine/results/final-pairs-test.json").exists()
    assert "pairs test" in Path("runs/irra/mine/report/report.html").read_text(encoding="utf-8")


def _as_own_pairs(benchmark: Path, root: Path) -> None:
    """A folder in CUHK-PEDES' format as a CSV file; images keep their paths, by which random numbers are keyed."""
    root.mkdir(parents=True)
    for part in (benchmark / "imgs").iterdir():
        (root / part.name).symlink_to(part)
    with (root / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "identity", "split"])
        for row in json.loads((benchmark / "reid_raw.json").read_text(encoding="utf-8")):
            lines = [[row["file_path"], caption, row["id"], row["split"]] for caption in row["captions"]]
            writer.writerows(lines)


@pytest.mark.slow
def test_a_csv_trains_and_scores_as_the_same_pairs_in_the_format_of_cuhk_pedes(world: World, tmp_path: Path) -> None:
    """300 people of it were tried by hand; here it is the small world, with loader workers, to the last bit."""
    _as_own_pairs(world.cuhk_pedes, tmp_path / "own")
    found = []
    for name, benchmark, root in (("official", "cuhk-pedes", world.cuhk_pedes), ("own", "pairs", tmp_path / "own")):
        words = ["--name", name, "--data.benchmark", benchmark, "--data.root", str(root), "--data.workers", "2"]
        assert run_recipe("irra", "tiny", *world.overrides(tmp_path, recipe="irra"), *words) == 0
        run = tmp_path / "irra" / name
        weights = sorted(run.glob("checkpoints/*/model.safetensors"))
        (results,) = read_results(run)
        found.append(
            (metrics(run), weights[-1].read_bytes(), results["text_to_image"], results["image_to_text"], results["size"])
        )
    assert found[0][0] == found[1][0] and any("loss" in line for line in found[0][0])
    assert found[0][1] == found[1][1]
    assert found[0][2:] == found[1][2:]
