"""What must not be shared between splits or repeated within one: refused in training, told by the doctor."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_folder import write_folder

from tbps.config.data import Benchmark
from tbps.data.annotations import read_annotations
from tbps.data.dataset_doctor import examine
from tbps.data.sharing import Place, SharedPictures

Rows = list[dict[str, Any]]
FILE = {"cuhk-pedes": "reid_raw.json", "rstpreid": "data_captions.json", "icfg-pedes": "ICFG-PEDES.json"}


def spoil(root: Path, change: Callable[[Rows], object], benchmark: Benchmark = "cuhk-pedes") -> None:
    """Twelve images of six persons, the last of them test, changed by `change`."""
    rows = write_folder(root, benchmark)
    change(rows)
    (root / FILE[benchmark]).write_text(json.dumps(rows))


def _path(rows: Rows) -> str:
    return "img_path" if "img_path" in rows[0] else "file_path"


def _same_person(rows: Rows) -> None:
    rows[10]["id"] = rows[0]["id"]


def _same_person_otherwise_written(rows: Rows) -> None:
    rows[10]["id"] = f" {float(rows[0]['id'])}"


def _same_image(rows: Rows) -> None:
    rows.append({**rows[3], "split": "test", "id": 77})


def _same_image_otherwise_written(rows: Rows) -> None:
    rows.append({**rows[3], "split": "test", "id": 77, _path(rows): ".//" + rows[3][_path(rows)].replace("/", "/./")})


def _same_image_in_capital_letters(rows: Rows) -> None:
    rows.append({**rows[3], "split": "test", "id": 77, _path(rows): rows[3][_path(rows)].upper()})


def _same_image_of_another_extension(rows: Rows) -> None:
    rows.append({**rows[3], "split": "test", "id": 77, _path(rows): rows[3][_path(rows)].replace("jpg", "png")})


def _two_persons(rows: Rows) -> None:
    rows.append({**rows[3], "id": 77})


def _two_persons_in_capital_letters(rows: Rows) -> None:
    rows.append({**rows[3], "id": 77, _path(rows): rows[3][_path(rows)].upper()})


IMAGE = "cam_1/0001_3.jpg"
FATAL: list[tuple[Callable[[Rows], None], str]] = [
    (_same_person, "1 identities in test and in train: "),
    (_same_person_otherwise_written, "1 identities in test and in train: "),
    (_same_image, f"1 images in test and in train: {IMAGE}"),
    (_same_image_otherwise_written, f"1 images in test and in train: {IMAGE}"),
    (_same_image_in_capital_letters, f"1 images in test and in train: {IMAGE.upper()} (as {IMAGE})"),
    (_same_image_of_another_extension, f"1 images in test and in train: {IMAGE.replace('jpg', 'png')} (as {IMAGE})"),
    (_two_persons, f"1 images of two identities: {IMAGE} ("),
    (_two_persons_in_capital_letters, f"1 images of two identities: {IMAGE.upper()} (as {IMAGE})"),
]


@pytest.mark.parametrize("benchmark", ["cuhk-pedes", "icfg-pedes", "rstpreid"])
@pytest.mark.parametrize(("change", "told"), FATAL, ids=[change.__name__ for change, _ in FATAL])
def test_what_leaks_is_refused(change: Callable[[Rows], None], told: str, benchmark: Benchmark, tmp_path: Path) -> None:
    spoil(tmp_path, change, benchmark)
    with pytest.raises(ValueError) as error:
        read_annotations(tmp_path, benchmark)
    sentence = str(error.value)
    assert sentence.startswith(f"{benchmark} at {tmp_path} has {told}")
    assert sentence.endswith("; correct the rows (tbps data doctor --all names them all)")
    report = examine(tmp_path, benchmark)
    assert not report.usable and f"ERROR: {told}" in report.text()


def test_capital_letters_that_part_two_files_are_no_repetition(tmp_path: Path) -> None:
    spoil(tmp_path, _same_image_in_capital_letters)
    (tmp_path / "imgs/CAM_1").mkdir()
    (tmp_path / "imgs" / IMAGE.upper()).write_bytes((tmp_path / "imgs" / IMAGE.replace("1_3", "0_1")).read_bytes() + b" ")
    read_annotations(tmp_path, "cuhk-pedes")
    assert examine(tmp_path, "cuhk-pedes").usable


def test_ids_are_numbers_however_they_are_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(rows: Rows) -> None:
        rows[1]["id"], rows[3]["id"], rows[5]["id"] = float(rows[1]["id"]), str(rows[3]["id"]), f"0{rows[5]['id']}.0"

    spoil(tmp_path, change)
    with caplog.at_level(logging.WARNING):
        annotations = read_annotations(tmp_path, "cuhk-pedes")
    assert annotations.split("train").image_identity_I.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    told = "3 ways of writing ids, read as the same numbers: 1 as int, 1 as float, 2 as str"
    assert told in caplog.text
    report = examine(tmp_path, "cuhk-pedes")
    assert report.usable and f"note: {told}" in report.text()


def test_names_are_ids_too(tmp_path: Path) -> None:
    spoil(tmp_path, lambda rows: [row.update(id=f"person {row['id']}") for row in rows])
    assert read_annotations(tmp_path, "cuhk-pedes").split("train").num_identities == 5


def test_what_train_and_val_share_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spoil(tmp_path, lambda rows: rows.append({**rows[0], "split": "val"}))
    with caplog.at_level(logging.WARNING):
        read_annotations(tmp_path, "cuhk-pedes")
    report = examine(tmp_path, "cuhk-pedes")
    assert report.usable
    for told in ("1 identities in val and in train: 1", "1 images in val and in train: cam_0/0000_0.jpg"):
        assert told in caplog.text and f"note: {told}" in report.text()


def test_a_file_pasted_twice_is_told(tmp_path: Path) -> None:
    spoil(tmp_path, lambda rows: rows.extend(list(rows)))
    text = examine(tmp_path, "cuhk-pedes").text()
    assert "10 images (published: 34,054), 40 captions" in text
    assert "note: 20 captions that their image has already, word for word: cam_0/0000_0.jpg#2, cam_0/0000_0.jpg#3," in text
    assert "note: 4 captions that their image has already, word for word" in text
    assert "word for word" not in examine(*_whole(tmp_path / "whole")).text()


def _whole(root: Path) -> tuple[Path, Benchmark]:
    write_folder(root, "cuhk-pedes")
    return root, "cuhk-pedes"


def _copy(file: Path, other: Path) -> None:
    other.write_bytes(file.read_bytes())


@pytest.mark.parametrize("workers", [1, 2])
def test_equal_bytes_under_two_names(workers: int, tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    train, other_person, same_person, test = (rows[number]["file_path"] for number in (3, 4, 2, 10))
    for path in (other_person, same_person, test):
        _copy(tmp_path / "imgs" / train, tmp_path / "imgs" / path)
    assert examine(tmp_path, "cuhk-pedes").usable
    report = examine(tmp_path, "cuhk-pedes", decode=True, workers=workers)
    assert not report.usable
    assert f"ERROR: 1 copies of an image in test and in train: {test} (as {same_person})" in report.text()
    assert f"ERROR: 1 copies of an image of two identities: {other_person} (as {same_person})" in report.text()
    assert f"note: 1 copies of an image under two names: {train} (as {same_person})" in report.text()


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_links_to_one_file_are_seen_without_decoding(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    train, test = (tmp_path / "imgs" / rows[number]["file_path"] for number in (3, 10))
    test.unlink()
    link(train, test)
    report = examine(tmp_path, "cuhk-pedes")
    told = f"ERROR: 1 copies of an image in test and in train: {rows[10]['file_path']} (as {rows[3]['file_path']})"
    assert not report.usable and told in report.text()
    assert "copies" not in examine(*_whole(tmp_path / "whole"), decode=True, workers=1).text()


def test_copies_among_the_photographs_of_coco_are_told(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "coco")
    train, test = (f"{row['filepath']}/{row['filename']}" for row in (rows[3], rows[11]))
    _copy(tmp_path / train, tmp_path / test)
    report = examine(tmp_path, "coco", decode=True, workers=1)
    assert report.usable and f"note: 1 copies of an image in test and in train: {test} (as {train})" in report.text()
    rows[11].update(filepath=rows[3]["filepath"], filename=rows[3]["filename"])
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": rows}))
    with pytest.raises(ValueError, match=f"coco at .* has 1 images in test and in train: {train}; correct the rows"):
        read_annotations(tmp_path, "coco")
    assert not examine(tmp_path, "coco").usable


@pytest.mark.parametrize("tolerated", [False, True])
def test_copies_in_a_complete_published_data_set_are_no_fault_of_the_user(tolerated: bool) -> None:
    copies = SharedPictures("copies", same_path=False, persons=True, tolerated=tolerated)
    assert copies.add("a", Place(split="train", identity=0, name="a.jpg"))
    assert copies.add("b", Place(split="train", identity=1, name="b.jpg"))
    assert not copies.add("a", Place(split="train", identity=0, name="a.jpg"))
    assert not copies.add("b", Place(split="test", identity=1, name="c.jpg"))
    told = [finding.line() for finding in copies.findings()]
    assert told == [("note" if tolerated else "ERROR") + ": 1 copies in test and in train: c.jpg (as b.jpg)"]
