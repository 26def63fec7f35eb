"""Splits of a user's own pairs: by identity, by a seed, for any order of the lines; and what is refused."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from tbps.command import main
from tbps.data.annotations import read_annotations
from tbps.data.splitting import SplitCount, assign_splits, split_pairs

HEAD = "image;caption;identity;camera"


def write(file: Path, *, people: int = 50, shuffle: int = 0, extra: str = "") -> Path:
    """Three captions of two images of each person."""
    lines = [
        f'p{who}/{number // 2}.jpg; "He says ""no; never"",\n{number}.";{who:03d};c{number}'
        for who in range(people)
        for number in range(3)
    ]
    if shuffle:
        random.Random(shuffle).shuffle(lines)
    file.write_text("\n".join([HEAD, *lines]) + "\n" + extra, encoding="utf-8")
    return file


def splits(file: Path) -> dict[str, set[str]]:
    """Identities of each split."""
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened, delimiter=";"))
    return {name: {row["identity"] for row in rows if row["split"] == name} for name in ("train", "val", "test")}


def test_people_are_parted_by_shares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path / "people.csv"), tmp_path / "pairs.csv"
    assert main(["data", "split", str(file), str(out), "--val", "0.1", "--test", "0.2", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert f"{out}: train 35 identities, 70 images, 105 captions; val 5 identities, 10 images, 15 captions; test 10" in said
    found = splits(out)
    assert [len(found[name]) for name in ("train", "val", "test")] == [35, 5, 10]
    assert len(set.union(*found.values())) == 50  # nobody in two
    annotations = read_annotations(tmp_path, "pairs")
    assert len(annotations.split("test").caption) == 30
    assert annotations.split("train").caption[0] == 'He says "no; never",\n0.'
    with out.open(newline="") as opened, file.open(newline="") as before:
        kept = [row[:4] for row in csv.reader(opened, delimiter=";")]
        assert kept == list(csv.reader(before, delimiter=";", skipinitialspace=True))


def test_the_same_people_come_to_the_same_split_whatever_the_order(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv")
    second = write(tmp_path / "b.csv", shuffle=1)
    for file in (first, second):
        split_pairs(file, file.with_stem(f"{file.stem}-out"), val=5, test=10, seed=0)
    assert splits(tmp_path / "a-out.csv") == splits(tmp_path / "b-out.csv")
    split_pairs(first, tmp_path / "c-out.csv", val=5, test=10, seed=1)
    assert splits(tmp_path / "c-out.csv") != splits(tmp_path / "a-out.csv")
    everybody = {f"{who}" for who in range(1000)}
    before = assign_splits(everybody, val=0.1, test=0.1, seed=0)
    after = assign_splits(everybody | {"one more"}, val=0.1, test=0.1, seed=0)
    assert sum(before[who] != after[who] for who in everybody) <= 2


def test_json_lines_keep_their_fields_and_images_without_identity_are_people(tmp_path: Path) -> None:
    file, out = tmp_path / "people.jsonl", tmp_path / "pairs.jsonl"
    rows = [{"image": f"{number}.jpg", "caption": ["A m\u00e4n.", "He walks."], "note": number} for number in range(8)]
    file.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    counts = split_pairs(file, out, val=0, test=2, seed=0)
    assert counts["test"] == SplitCount(identities=2, images=2, captions=4) and counts["val"].images == 0
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [{name: row[name] for name in ("image", "caption", "note")} for row in found] == rows
    assert sorted(row["split"] for row in found) == ["test"] * 2 + ["train"] * 6


def test_an_empty_column_is_filled(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("\ufeffsplit,image,caption\n,a.jpg,A man.\n,b.jpg,A woman.\n", encoding="utf-8")
    split_pairs(tmp_path / "people.csv", tmp_path / "pairs.csv", val=0, test=1, seed=0)
    lines = (tmp_path / "pairs.csv").read_text().splitlines()
    assert lines[0] == "split,image,caption" and sorted(line.split(",")[0] for line in lines[1:]) == ["test", "train"]


def test_what_cannot_be_split_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "people.csv", people=10)
    two = write(tmp_path / "two.csv", people=3, extra="p0/0.jpg;A man.;002;c\n")
    (tmp_path / "done.csv").write_text("image,caption,split\na.jpg,A man.,test\n")
    (tmp_path / "out.csv").write_text("mine")
    (tmp_path / "folder").mkdir()
    for words, sentence in (
        (("people.csv", "out.csv"), "out.csv exists and is left as it is; choose another name"),
        (("people.csv", "folder/pairs.csv"), "lies in another folder than"),
        (("people.csv", "pairs.jsonl"), "ends in .jsonl, expected .csv as people.csv"),
        (("absent.csv", "pairs.csv"), "absent.csv cannot be split: there is no such file"),
        (("done.csv", "pairs.csv"), "done.csv, line 2 says that its split is test already; use the file as it is"),
        (("two.csv", "pairs.csv", "--val", "0", "--test", "1"), "image p0/0.jpg has another identity than in line 2;"),
        (("people.csv", "pairs.csv", "--val", "5", "--test", "5"), "of 10 identities leave nobody to train on; give less"),
        (("people.csv", "pairs.csv", "--val", "0.01"), "--val 0.01 of 10 identities is nobody; give more, or 0 for no"),
        (("people.csv", "pairs.csv", "--val", "1.5"), "--val is 1.5, expected a share of 0 to 1, or a whole number"),
        (("people.csv", "pairs.csv", "--test", "nan"), "--test is nan, expected a share of 0 to 1"),
    ):
        capsys.readouterr()
        paths = [str(tmp_path / word) if "." in word and not word[0].isdigit() else word for word in words]
        assert main(["data", "split", *paths]) == 2, words
        said = capsys.readouterr().err
        assert sentence in said and said.strip().count("\n") == 0, said
    assert (tmp_path / "out.csv").read_text() == "mine" and not (tmp_path / "pairs.csv").exists()
    assert file.exists() and two.exists()
