"""Parsing maps that cannot be used: one sentence at the start of a run, the same from the doctor, for folders and shards."""

import io
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_folder import make_data

from tbps.command import main
from tbps.data import parsing_cache
from tbps.data.annotations import read_annotations
from tbps.data.column import map_columns, write_columns
from tbps.data.dataset_doctor import examine
from tbps.data.fields import FIELDS, try_fields
from tbps.data.label_maps import decode_map, encode_map, map_path
from tbps.data.label_sets import ATR
from tbps.data.pairs import open_pairs
from tbps.data.parsing_cache import Manifest, check_cache, write_manifest
from tbps.data.remote import sha256_of
from tbps.data.shard_writer import write_shards
from tbps.synthetic.world import write_world

BENCHMARK: Any = "rstpreid"
IMAGE_PX = (48, 16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, benchmark=BENCHMARK, num_identities=24, seed=3, workers=1, image_px=IMAGE_PX)
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "world"))


def training_images(root: Path) -> list[str]:
    return list(read_annotations(root, BENCHMARK).split("train").image_path)


def start(root: Path, field: str = "parsing_atr") -> None:
    """What the start of a run does."""
    try_fields({field: FIELDS[field]}, open_pairs(make_data(root, BENCHMARK)))


def picture(pixels: Any, mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8), mode).save(file, "PNG")
    return file.getvalue()


def test_whole_maps_are_taken(world: Path) -> None:
    for field in ("parsing_atr", "parsing_pascal"):
        start(world, field)
    report = examine(world, BENCHMARK, decode=True, workers=1)
    assert report.usable and "parsing map" not in report.text().replace("images and parsing maps were", "")


def test_each_bad_map_is_one_sentence_at_the_start_and_for_the_doctor(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing_cache, "SAMPLE", 10_000)
    image, other = training_images(world)[5:7]
    file, whole = world / map_path(image, "atr"), (world / map_path(image, "atr")).read_bytes()
    of_other = (world / map_path(other, "atr")).read_bytes()
    for content, sentence in (
        (b"no image", "its label map cannot be decoded (UnidentifiedImageError); write it again"),
        (picture(np.zeros((*IMAGE_PX, 3)), "RGB"), "its label map is of mode RGB, expected P or L, whose pixels are labels"),
        (picture(np.full(IMAGE_PX, 18), "L"), "its label map holds label 18, expected 0 to 17 of ATR; write it again, or"),
        (picture(np.zeros((48, 17)), "L"), "its label map is 48 x 17, expected 48 x 16 as its image; make it again"),
        (of_other, "as its image has; one of them was exchanged: tbps parse writes the map again"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            start(world)
        assert str(caught.value).startswith(f"image {image}, parsing map of ATR: its label map ")
        assert sentence in str(caught.value)
        report = examine(world, BENCHMARK, decode=True, workers=2, parsing=("atr",))
        assert not report.usable
        assert f"ERROR: 1 parsing maps of ATR that cannot be used: {image} (its label map" in report.text()
        assert sentence in report.text()
        told = examine(world, BENCHMARK, decode=True, workers=1, parsing=("pascal",))
        assert told.usable, "whoever reads none of these maps may train"
        assert f"note: 1 parsing maps of ATR that cannot be used: {image} (its label map" in told.text()
        assert "parsing map of" not in examine(world, BENCHMARK).text(), "nothing is decoded unless asked for"
        with pytest.raises(ValueError, match="its label map"):
            write_shards(world, BENCHMARK, world.parent / "shards", parsing=("atr",))
    file.write_bytes(whole)
    # Nobody says of which image a map is that other tools wrote.
    file.write_bytes(picture(decode_map(whole, ATR).numpy(), "L"))
    start(world)


def test_a_missing_map_is_named_by_both(world: Path) -> None:
    gone = training_images(world)[7:10]
    for image in gone:
        (world / map_path(image, "pascal")).unlink()
    start(world, "parsing_atr")
    with pytest.raises(ValueError) as caught:
        start(world, "parsing_pascal")
    place = world / map_path(gone[0], "pascal")
    assert str(caught.value) == (
        f"image {gone[0]} (nor have 2 others) has no parsing map of Pascal-Person-Part: {place} is not there; tbps parse"
        " writes the maps that are missing"
    )
    line = f"3 images without a parsing map of Pascal-Person-Part: {', '.join(gone)}"
    for needed, word in (((), "note"), (("atr",), "note"), (("atr", "pascal"), "ERROR")):
        report = examine(world, BENCHMARK, parsing=needed)
        assert f"{word}: {line}" in report.text() and report.usable == (word == "note")


def test_a_set_that_is_not_there_is_refused_with_those_that_are(world: Path) -> None:
    with pytest.raises(ValueError) as caught:
        start(world, "parsing_lip")
    assert str(caught.value) == (
        f"{world} has no parsing maps of LIP: {world}/parsing/lip/manifest.json is not there, maps are of ATR,"
        f" Pascal-Person-Part; write them with tbps parse {world} --benchmark rstpreid --parser NAME"
    )
    (world / "parsing/pascal").rename(world / "parsing/lip")
    with pytest.raises(ValueError, match=r"lip/manifest.json is of label set 'pascal', expected 'lip' with the labels"):
        start(world, "parsing_lip")
    (world / "parsing/atr/manifest.json").unlink()
    found = ("1 folder of parsing maps without manifest.json: ", f"{world}/parsing/atr (tbps parse)")
    report = examine(world, BENCHMARK, parsing=("atr",))
    assert f"ERROR: {''.join(found)}" in report.text() and not report.usable
    assert "note: 1 manifest of parsing maps that cannot be used" in report.text()
    assert examine(world, BENCHMARK).usable


def test_the_command_fails_for_the_sets_that_are_read_alone(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(world / "parsing/atr")
    for words, status in (([], 0), (["--parsing", "pascal"], 0), (["--parsing", "pascal", "--parsing", "atr"], 1)):
        assert main(["data", "doctor", str(world), "--benchmark", BENCHMARK, *words]) == status
    said = capsys.readouterr().out
    assert said.count("parsing maps missing") == 1
    assert f"ERROR: 1 folder of parsing maps missing: {world}/parsing/atr (tbps parse)" in said


def test_one_map_of_ten_thousand_is_named_within_seconds(tmp_path: Path) -> None:
    images = [f"{number // 1000:02d}/{number:05d}.png" for number in range(10_000)]
    image = picture(np.zeros((4, 2, 3)), "RGB")
    content = encode_map(np.zeros((4, 2), np.uint8), "atr", image_bytes=image)
    write_manifest(tmp_path, Manifest(label_set="atr", parser="a test", parser_sha256=None))
    for path in images:
        for file, what in ((tmp_path / "imgs" / path, image), (tmp_path / map_path(path, "atr"), content)):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(what)
    check_cache(tmp_path, BENCHMARK, "atr", images)
    (tmp_path / map_path(images[9_876], "atr")).unlink()
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"^image 09/09876.png has no parsing map of ATR: \S+ is not there; tbps parse"):
        check_cache(tmp_path, BENCHMARK, "atr", images)
    assert time.monotonic() - began < 5


def test_at_the_start_a_sample_is_looked_into(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = training_images(world)
    looked: list[str] = []

    def counted(problem_of: Callable[..., str]) -> Callable[..., str]:
        return lambda root, files, label_set, path: looked.append(path) or problem_of(root, files, label_set, path)

    monkeypatch.setattr(parsing_cache, "SAMPLE", 7)
    monkeypatch.setattr(parsing_cache, "problem_of", counted(parsing_cache.problem_of))
    start(world)
    assert 4 <= len(looked) <= 7 and looked[0] == images[0] and images.index(looked[-1]) > len(images) // 2


# -- shards ---------------------------------------------------------------------------------------------------------------


def test_the_first_pair_of_shards_is_looked_into(world: Path, tmp_path: Path) -> None:
    write_shards(world, BENCHMARK, tmp_path / "shards", parsing=("pascal",))
    start(tmp_path / "shards", "parsing_pascal")
    with pytest.raises(ValueError, match=r"bring no parsing maps of ATR, only of Pascal-Person-Part; make them again with"):
        start(tmp_path / "shards", "parsing_atr")


def test_maps_in_shards_of_format_3_are_of_atr(world: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    write_shards(world, BENCHMARK, shards, parsing=("atr",))
    index = json.loads((shards / "tbps-index.json").read_text())
    for split in index["splits"].values():
        table = shards / split["index"]["name"]
        columns = {name.replace("parsing_atr_", "parsing_"): column for name, column in map_columns(table).items()}
        assert {"parsing_start_I", "parsing_size_I", "parsing_crc_I"} <= set(columns)
        write_columns(tmp_path / "older", columns)
        (tmp_path / "older").rename(table)
        split["index"] |= {"num_bytes": table.stat().st_size, "sha256": sha256_of(table)}
    (shards / "tbps-index.json").write_text(json.dumps({**index, "format": 3}))
    start(shards)
    left, right = (open_pairs(make_data(root, BENCHMARK)) for root in (world, shards))
    for pair in range(len(left)):
        assert left.parsing_bytes(pair, "atr") == right.parsing_bytes(pair, "atr")
    assert torch.any(FIELDS["parsing_atr"].read(right, 0))
