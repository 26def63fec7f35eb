"""A user's own pairs, in CSV and in JSON lines: what is read, what is refused and how, in folder, shards and doctor."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_shards import assert_same_pairs
from tiny_folder import jpeg_bytes, make_data

from tbps.command import main
from tbps.config.data import Benchmark
from tbps.data import annotation_cache
from tbps.data.annotations import Annotations, read_annotations
from tbps.data.dataset_doctor import examine
from tbps.data.pairs import open_pairs
from tbps.data.shard_writer import write_shards

PAIRS: Benchmark = "pairs"
ROWS: Sequence[dict[str, Any]] = (
    {"image": "a.jpg", "caption": 'A "tall" man,\nin red.', "identity": 7, "split": "train", "attributes": [0, 1, -1]},
    {"image": "sub/b.jpg", "caption": "The same man; from behind.", "identity": 7, "split": "train"},
    {"image": "a.jpg", "caption": "He wears h\u00e4ts.", "identity": 7, "split": "train"},
    {"image": "c.jpg", "caption": "A woman walks.", "identity": "eve", "split": "test", "attributes": [1, 1, 0]},
)


def write_csv(root: Path, rows: Sequence[dict[str, Any]], *, separator: str = ",", encoding: str = "utf-8") -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (root / "pairs.csv").open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(columns)
        for row in rows:
            cells = {**row, "attributes": " ".join(map(str, row.get("attributes", ())))}
            writer.writerow([cells.get(name, "") for name in columns])


def write_json(root: Path, rows: Sequence[dict[str, Any]]) -> None:
    (root / "pairs.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_images(root: Path, names: Sequence[str] = ("a.jpg", "sub/b.jpg", "c.jpg")) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg_bytes(number))


def check(annotations: Annotations) -> None:
    train, test = annotations.split("train"), annotations.split("test")
    assert list(annotations.splits) == ["train", "test"] and annotations.persons
    assert list(train.image_path) == ["a.jpg", "sub/b.jpg"] and train.image_identity_I.tolist() == [0, 0]
    assert list(train.caption) == [ROWS[number]["caption"] for number in range(3)]
    assert train.pair_key(2) == "a.jpg#1" and train.annotated_range_2.tolist() == [7, 7]
    assert train.attribute_IA is not None and train.attribute_IA.tolist() == [[0, 1, -1], [-1, -1, -1]]
    assert test.attribute_IA is not None and test.attribute_IA.tolist() == [[1, 1, 0]]
    assert annotations.ids == {"train": ("7",), "test": ("eve",)}


@pytest.mark.parametrize(
    "write",
    [
        write_json,
        write_csv,
        lambda root, rows: write_csv(root, rows, separator=";", encoding="utf-8-sig"),
        lambda root, rows: write_csv(root, rows, separator="\t"),
    ],
    ids=["json lines", "commas", "semicolons and a mark", "tabs"],
)
def test_rows_are_read(tmp_path: Path, write: Callable[[Path, Sequence[dict[str, Any]]], None]) -> None:
    write(tmp_path, ROWS)
    check(read_annotations(tmp_path, PAIRS))


def test_image_and_caption_are_enough(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text('image, caption\n\n ./a.jpg , "A man, tall."\nb.jpg,A man.\na.jpg,He walks.\n')
    annotations = read_annotations(tmp_path, PAIRS)
    train = annotations.split("train")
    assert list(train.image_path) == ["a.jpg", "b.jpg"] and train.image_identity_I.tolist() == [0, 1]
    assert list(train.caption) == ["A man, tall.", "A man.", "He walks."] and train.attribute_IA is None
    assert not annotations.persons and list(annotations.splits) == ["train"] and not annotations.ids["train"]


def test_an_image_without_identity_is_none_of_the_persons(tmp_path: Path) -> None:
    """Not even where a person is called like it."""
    rows = [{"image": "b", "caption": "A man.", "identity": "a"}, {"image": "a", "caption": ["One.", "Two."]}]
    write_json(tmp_path, rows)
    annotations = read_annotations(tmp_path, PAIRS)
    assert annotations.split("train").image_identity_I.tolist() == [0, 1] and not annotations.persons
    assert annotations.split("train").image_N.tolist() == [0, 1, 1]


def test_attributes_before_which_others_had_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    rows = [{"image": name, "caption": "A man."} for name in ("a", "b", "c", "c")]
    write_json(tmp_path, [*rows[:2], {**rows[2], "attributes": [1, 0]}, {**rows[3], "attributes": [1, 1]}])
    labels = read_annotations(tmp_path, PAIRS).split("train").attribute_IA
    assert labels is not None and labels.tolist() == [[-1, -1], [-1, -1], [1, 0]]
    assert "1 rows with other attributes than the first of their image, which count: c (" in caplog.text


def test_columns_that_are_not_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "pairs.csv").write_text("image,caption,idenity\na.jpg,A man.,7\n")
    read_annotations(tmp_path, PAIRS)
    assert "pairs.csv: columns that are not read: idenity" in caplog.text
    (tmp_path / "pairs.csv").unlink()
    write_json(tmp_path, [{"image": name, "caption": "A man.", "camera": 3} for name in "ab"])
    read_annotations(tmp_path, PAIRS)
    assert caplog.text.count("fields that are not read: camera") == 1 and "pairs.jsonl, line 1: fields" in caplog.text


CSV_FAULTS: Sequence[tuple[bytes, str]] = (
    (b"image,capton\na.jpg,A man.\n", r"line 1 has no column 'caption', found 'image', 'capton'; name the columns there:"),
    (b"a.jpg,A man.\n", r"line 1 has no column 'image', found 'a.jpg', 'A man.'"),
    (b"image,caption,caption\n", r"line 1 names column 'caption' 2 times; keep one"),
    (b"image,caption\n", r"pairs.csv holds no pair; write a line for each"),
    (b"", r"line 1 has no column 'image'"),
    (
        b"image,caption\na.jpg,A man.\nb.jpg,A man, tall.\n",
        r"line 3 has 3 cells, expected 2 .* that holds ',' between double",
    ),
    (b'image,caption\na.jpg,"A man.\nb.jpg,A woman.\n', r"line 2 is no row: unexpected end of data; is a quote not closed"),
    (b'image,caption\na.jpg,"A "man"."\n', r"line 2 is no row: .*; is a quote not closed, or not doubled inside quotes\?"),
    (b'image,caption\na.jpg,"A\n\nman."\n../b.jpg,A man.\n', r"line 5: the image path '../b.jpg' leaves the data set's fol"),
    (b"image,caption\n/etc/b.jpg,A man.\n", r"line 2: the image path '/etc/b.jpg' leaves the data set's folder"),
    (b"image,caption\n,A man.\n", r"line 2: the image path is '', expected a relative path"),
    (b"image,caption\na.jpg,\n", r"line 2: 'caption' is empty; write one, or remove the line"),
    (b"image,caption,split\na.jpg,A man.,dev\n", r"line 2: 'split' is 'dev', expected one of train, val, test, or nothing"),
    (b"image,caption\na.jpg,A man.\nb.jpg,A caf\xe9.\n", r"line 3 is not UTF-8 text: its byte 12 is 0xe9; save the file as"),
    ("image,caption\na.jpg,A man.\n".encode("utf-16"), r"line 1 is not UTF-8 text: its byte 1 is 0xff; save the file as"),
    (b"image,caption,attributes\na.jpg,A man.,0 1\nb.jpg,A man.,0\n", r"line 3: 'attributes' is \[0\], expected 2 of 0, 1,"),
    (b"image,caption,attributes\na.jpg,A man.,0 2\n", r"line 2: 'attributes' is \[0, 2\], expected a list of 0, 1, -1"),
    (b"image,caption,attributes\na.jpg,A man.,yes no\n", r"line 2: 'attributes' is 'yes no', expected 0, 1 and -1 between"),
    (
        b"image,caption,identity\na,A man.,7\nb,A man.,7\na,He walks.,8\n",
        r"images of two identities: a \(\S+, line 4\); corr",
    ),
    (b"image,caption,split\na,A man.,train\na,A man.,test\n", r"1 images in test and in train: a; correct the rows"),
    (b"<!doctype html><html>", r"pairs.csv holds no pairs: it is a web page; download the file itself"),
    (b"PK\x03\x04" + bytes(99), r"pairs.csv holds no pairs: it is a zip archive"),
)


@pytest.mark.parametrize(("content", "message"), CSV_FAULTS)
def test_a_wrong_csv_file_gets_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(tmp_path, PAIRS)
    assert "\n" not in str(caught.value)


JSON_FAULTS: Sequence[tuple[str, str]] = (
    ('{"image": "a"}\n', r"line 1: no field 'caption', found 'image'; correct the row"),
    (
        '{"image": "a", "caption": "A man."}\n{"image": "b", "caption": "A',
        r"line 2 is not JSON \(column 27: .*; write one obj",
    ),
    ('[{"image": "a", "caption": "A man."}]\n', r"line 1 is a list, expected an object with image and caption"),
    ("\n \n", r"pairs.jsonl holds no pair; write a line for each"),
    ('\n{"image": "a", "caption": []}\n', r"line 2: 'caption' is \[\], expected a list of strings"),
    ('{"image": "a", "caption": ["A man.", " "]}\n', r"line 1: 'caption' is empty"),
    ('{"image": "a", "caption": "\\ud83d"}\n', r"line 1: 'caption' is '.ud83d', which holds half a character"),
    ('{"image": 3, "caption": "A man."}\n', r"line 1: the image path is 3, expected a relative path"),
    (
        '{"image": "a", "caption": "A man.", "identity": 1.5}\n',
        r"line 1: 'identity' is 1.5, expected a whole number or a name",
    ),
    (
        '{"image": "a", "caption": "A man.", "attributes": {"hat": 1}}\n',
        r"line 1: 'attributes' is {'hat': 1}, expected a list",
    ),
    ("[" * 100_000 + "\n", r"line 1 is not JSON"),
)


@pytest.mark.parametrize(("content", "message"), JSON_FAULTS)
def test_wrong_json_lines_get_one_sentence(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "pairs.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(tmp_path, PAIRS)
    assert "\n" not in str(caught.value)


def test_which_file_is_read_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"is not pairs: looked for pairs.csv or pairs.jsonl, found nothing; give the folder"
    ):
        read_annotations(tmp_path, PAIRS)
    write_csv(tmp_path, ROWS)
    write_json(tmp_path, ROWS)
    with pytest.raises(ValueError, match=r"holds pairs.csv and pairs.jsonl; keep one of them"):
        read_annotations(tmp_path, PAIRS)


def test_folder_cache_and_shards_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_cache, "SMALL_BYTES", 0)
    (tmp_path / "mine").mkdir()
    write_images(tmp_path / "mine")
    write_csv(tmp_path / "mine", ROWS)
    write_shards(tmp_path / "mine", PAIRS, tmp_path / "shards")
    for split in ("train", "test"):
        folder, shards = (
            open_pairs(make_data(tmp_path / place, PAIRS, cache=str(tmp_path / "cache/shards")), split)
            for place in ("mine", "shards")
        )
        assert_same_pairs(folder, shards)
        for pair in range(len(folder)):
            assert np.array_equal(folder.attributes(pair), shards.attributes(pair))


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path)
    write_csv(tmp_path, [{name: row[name] for name in ("image", "caption")} for row in ROWS])
    assert main(["data", "doctor", str(tmp_path), "--benchmark", "pairs", "--decode"]) == 0
    told = capsys.readouterr().out
    assert "train: 3 identities, 3 images, 4 captions\n" in told and told.endswith("every image was decoded\n  usable\n")
    assert "note: no row of split val; choose the last checkpoint" in told and "ERROR" not in told
    assert "note: no row of split test; train with --evaluation.test False" in told and "with one image" not in told
    # One picture under two names: nobody said that these are two persons.
    (tmp_path / "c.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    assert examine(tmp_path, PAIRS, decode=True).usable
    write_csv(tmp_path, [{**row, "split": "train"} for row in ROWS])
    report = examine(tmp_path, PAIRS, decode=True)
    assert not report.usable and "ERROR: 1 copies of an image of two identities: c.jpg (as a.jpg)" in report.text()
    (tmp_path / "sub/b.jpg").unlink()
    assert re.search(r"ERROR: 1 images missing: sub/b.jpg", examine(tmp_path, PAIRS).text())


def test_a_test_split_alone_can_be_evaluated_on(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_csv(tmp_path, [{**row, "split": "test"} for row in ROWS])
    report = examine(tmp_path, PAIRS)
    assert report.usable and "note: no row of split train; there is nothing to train on" in report.text()
