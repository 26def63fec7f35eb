import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_folder import MAIN_FILE, caption, jpeg_bytes, write_folder

from tbps.config.data import Benchmark
from tbps.data.annotations import read_annotations
from tbps.data.column import StringColumn
from tbps.data.image_files import ImageFiles


@pytest.mark.parametrize("benchmark", ["cuhk-pedes", "icfg-pedes", "rstpreid"])
def test_reads_columns(tmp_path: Path, benchmark: Benchmark) -> None:
    rows = write_folder(tmp_path, benchmark)
    annotations = read_annotations(tmp_path, benchmark)
    train = annotations.split("train")
    assert list(train.image_path) == [row.get("file_path", row.get("img_path")) for row in rows[:10]]
    assert list(train.caption) == [sentence for row in rows[:10] for sentence in row["captions"]]
    assert train.image_identity_I.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert train.image_N.tolist() == [image for image in range(10) for _ in range(2)]
    assert train.identity_N.tolist() == [image // 2 for image in range(10) for _ in range(2)]
    assert train.num_identities == 5 and train.attribute_IA is None
    assert train.pair_key(5) == f"{train.image_path[2]}#1"
    # Identities are counted anew in each split.
    assert annotations.split("test").image_identity_I.tolist() == [0, 0]


def test_reads_mals(tmp_path: Path) -> None:
    write_folder(tmp_path, "mals")
    extra = [{"image": "gene_crop/4x/7.jpg", "caption": "late", "image_id": "x", "label": [1] * 27}]
    (tmp_path / "gene_attrs/g_4x_attrs.json").write_text(json.dumps(extra))
    train = read_annotations(tmp_path, "mals").split("train")
    # Files in the order of their names.
    assert train.image_path[0] == "gene_crop/4x/7.jpg" and train.caption[1] == caption(0, 0)
    assert train.image_identity_I.tolist() == list(range(13))
    assert train.attribute_IA is not None and train.attribute_IA.dtype == np.int8
    assert train.attribute_IA[0].tolist() == [1] * 27 and train.attribute_IA[1].tolist() == [1, 0, -1] * 9


def test_reads_coco(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "coco")
    rows[1]["sentences"][0]["raw"] = "A dog\nbarks. "
    write_coco(tmp_path, rows)
    annotations = read_annotations(tmp_path, "coco")
    train = annotations.split("train")
    # Rows called "restval" are trained on, in their place; every image is an identity that all its captions belong to.
    assert [row["split"] for row in rows] == [*["restval", "train", "train", "train"] * 2, "restval", "train", "val", "test"]
    assert list(train.image_path) == [f"{row['filepath']}/{row['filename']}" for row in rows[:10]]
    assert train.image_identity_I.tolist() == list(range(10))
    assert train.image_N.tolist() == [image for image in range(10) for _ in range(2)]
    assert list(train.caption)[1:4] == [caption(0, 1), "A dog\nbarks. ", caption(1, 1)]
    assert train.pair_key(1) == "val2014/COCO_val2014_000000000000.jpg#1" and train.attribute_IA is None
    for name, number in (("val", 10), ("test", 11)):
        split = annotations.split(name)
        assert list(split.caption) == [caption(number, 0), caption(number, 1)] and split.num_identities == 1
        assert ImageFiles(tmp_path, "coco").read(split.image_path[0]) == jpeg_bytes(number)


def test_reads_coco_as_albef_splits_it(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "coco")
    expected = read_annotations(tmp_path, "coco")
    (tmp_path / "dataset_coco.json").unlink()
    files: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for row in rows:
        image, texts = f"{row['filepath']}/{row['filename']}", [sentence["raw"] for sentence in row["sentences"]]
        if row["split"] in ("val", "test"):
            files[row["split"]].append({"image": image, "caption": texts})
        else:  # one row a caption
            files["train"] += [{"image": image, "caption": text, "image_id": row["imgid"]} for text in texts]
    for name, content in files.items():
        (tmp_path / f"coco_{name}.json").write_text(json.dumps(content))
    found = read_annotations(tmp_path, "coco")
    for name in files:
        ours, theirs = found.split(name), expected.split(name)
        assert list(ours.image_path) == list(theirs.image_path) and list(ours.caption) == list(theirs.caption)
        assert ours.identity_N.tolist() == theirs.identity_N.tolist()
        assert ours.caption_number_N.tolist() == theirs.caption_number_N.tolist()
    (tmp_path / "coco_val.json").unlink()
    assert list(read_annotations(tmp_path, "coco").splits) == ["train", "test"]


@pytest.mark.parametrize(
    ("benchmark", "name"),
    [("cuhk-pedes", "caption_all.json"), ("icfg-pedes", "ICFG_PEDES.json"), ("mals", "data/gene_attrs")],
)
def test_other_places_of_annotations(tmp_path: Path, benchmark: Benchmark, name: str) -> None:
    write_folder(tmp_path, benchmark)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / ("gene_attrs" if benchmark == "mals" else MAIN_FILE[benchmark])).rename(tmp_path / name)
    assert len(read_annotations(tmp_path, benchmark).split("train").caption) > 0


def test_rows_of_one_image_are_joined(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "icfg-pedes")
    rows.append({**rows[0], "captions": "one more sentence"})
    (tmp_path / "ICFG-PEDES.json").write_text(json.dumps(rows))
    train = read_annotations(tmp_path, "icfg-pedes").split("train")
    assert len(train.image_path) == 10
    assert (train.image_N[-1], train.caption_number_N[-1], train.caption[20]) == (0, 2, "one more sentence")


def test_split_without_rows_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path, "cuhk-pedes")
    with caplog.at_level(logging.WARNING):
        annotations = read_annotations(tmp_path, "cuhk-pedes")
    assert "has no row of split val" in caplog.text
    with pytest.raises(ValueError, match="has no split 'val': it has train, test; choose one of them"):
        annotations.split("val")


def test_wrong_root(tmp_path: Path) -> None:
    (tmp_path / "imgs").mkdir()
    with pytest.raises(
        ValueError, match=r"is not cuhk-pedes: looked for reid_raw.json or caption_all.json, found imgs; give"
    ):
        read_annotations(tmp_path, "cuhk-pedes")
    with pytest.raises(ValueError, match=r"is not mals: looked for gene_attrs/g_\*_attrs.json, found imgs; give"):
        read_annotations(tmp_path, "mals")
    with pytest.raises(ValueError, match=r"is not coco: looked for dataset_coco.json or coco_train.json, found imgs; give"):
        read_annotations(tmp_path, "coco")
    with pytest.raises(ValueError, match=r"found nothing; give"):
        read_annotations(tmp_path / "imgs", "rstpreid")
    with pytest.raises(ValueError, match=r"nowhere is not a folder; give the folder that holds data_captions.json"):
        read_annotations(tmp_path / "nowhere", "rstpreid")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[\n{"split": "train",\n]',
            r"reid_raw.json is not valid JSON: line 3, column 1: .*; correct it there, or do",
        ),
        ("[", r"is not valid JSON: line 1, column 2: Expecting value; the file ends in the middle: download it again"),
        ("{}", "holds a dict, expected a list of rows"),
        ("[3]", "row 1 is a int, expected an object"),
        (b"[\xff]", "is not UTF-8 text: byte 1"),
    ],
)
def test_broken_file(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "reid_raw.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path, "cuhk-pedes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": None}, "row 3: split is 'None', expected one of train, val, test"),
        ({"captions": []}, r"row 3: 'captions' is \[\], expected a list of strings"),
        ({"captions": ["a", 3]}, "row 3: 'captions' is .*expected a list of strings"),
        ({"file_path": ""}, "row 3: the image path is '', expected a relative path"),
        ({"file_path": "../../secret.jpg"}, "row 3: the image path '../../secret.jpg' leaves the data set's folder"),
        (
            {"file_path": "cam_0/0000_0.jpg"},
            r"has 1 images of two identities: cam_0/0000_0.jpg \(.*reid_raw.json, row 3\); correct the rows",
        ),
        ({"file_path": "./"}, "row 3: the image path is './', expected a relative path"),
        ({"file_path": "a\0b.jpg"}, "row 3: the image path is .*, expected a relative path"),
        ({"file_path": "a\ud83d.jpg"}, "row 3: the image path is .*, expected a relative path"),
        ({"captions": ["A man \ud83d."]}, r"row 3: 'captions' is .*, which holds half a character \(a surrogate\)"),
        *(({"id": wrong}, "row 3: 'id' is .*, expected a whole number or a name") for wrong in (None, True, 1.5, [1], " ")),
        ({"captions": [float("nan")]}, r"row 3: 'captions' is \[nan\], expected a list of strings"),
        ({"file_path": float("inf")}, "row 3: the image path is inf, expected a relative path"),
        *(({"id": float(wrong)}, f"row 3: 'id' is {wrong}, expected a whole number") for wrong in ("nan", "inf")),
    ],
)
def test_broken_row(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    rows[2].update(change)
    (tmp_path / "reid_raw.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path, "cuhk-pedes")


@pytest.mark.parametrize("name", ["split", "captions", "id", "file_path"])
def test_missing_field(tmp_path: Path, name: str) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    del rows[2][name]
    (tmp_path / "reid_raw.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=rf"reid_raw.json, row 3: no field '{name}'.*(found '|which other rows have)"):
        read_annotations(tmp_path, "cuhk-pedes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [1, 2]}, "row 1: 'label' is .* expected 27 of 0, 1, -1"),
        ({"label": [float("nan")] * 27}, "row 1: 'label' is .* expected 27 of 0, 1, -1"),
        ({"caption": 3}, "row 1: 'caption' is 3, expect"),
    ],
)
def test_broken_row_of_mals(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = write_folder(tmp_path, "mals")
    rows[0].update(change)
    (tmp_path / "gene_attrs/g_c_g_a_0_attrs.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path, "mals")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "minival"}, "row 3: split is 'minival', expected one of train, val, test; correct the row"),
        ({"sentences": []}, r"row 3: 'sentences' is \[\], expected a list of objects; correct the row"),
        ({"sentences": 3}, "row 3: 'sentences' is 3, expected a list of objects; correct the row"),
        ({"sentences": ["A dog."]}, r"row 3: 'sentences' is \['A dog.'\], expected a list of objects; correct the row"),
        ({"sentences": [{"tokens": ["a", "dog"]}]}, "row 3: no field 'raw', found 'tokens'; correct the row"),
        ({"sentences": [{"raw": 3}]}, r"row 3: 'raw' is \[3\], expected a list of strings; correct the row"),
        ({"filepath": "../val2014"}, "row 3: the image path '../val2014' leaves the data set's folder"),
        ({"filename": None}, "row 3: the image path is None, expected a relative path"),
    ],
)
def test_broken_row_of_coco(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = write_folder(tmp_path, "coco")
    rows[2].update(change)
    write_coco(tmp_path, rows)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path, "coco")


@pytest.mark.parametrize("name", ["split", "sentences", "filepath", "filename"])
def test_missing_field_of_coco(tmp_path: Path, name: str) -> None:
    rows = write_folder(tmp_path, "coco")
    del rows[2][name]
    write_coco(tmp_path, rows)
    with pytest.raises(ValueError, match=rf"dataset_coco.json, row 3: no field '{name}', found '"):
        read_annotations(tmp_path, "coco")


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        ([], "dataset_coco.json holds no object with a list of 'images', as COCO's file has it; download it again"),
        ({"annotations": []}, "holds no object with a list of 'images'"),
        ({"images": {"split": "train"}}, "dataset_coco.json holds a dict, expected a list of rows"),
        ({"images": [3]}, "row 1 is a int, expected an object"),
    ],
)
def test_broken_file_of_coco(tmp_path: Path, whole: object, message: str) -> None:
    (tmp_path / "dataset_coco.json").write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path, "coco")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"caption": "A dog."}, "coco_train.json, row 1: no field 'image', found 'caption'"),
        ({"image": "val2014/1.jpg"}, "coco_train.json, row 1: no field 'caption', found 'image'"),
        ({"image": "/data/1.jpg", "caption": "A dog."}, "the image path '/data/1.jpg' leaves the data set's folder"),
        ({"image": "1.jpg", "caption": 3}, "'caption' is 3, expected a list of strings"),
    ],
)
def test_broken_row_of_a_split_file_of_coco(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "coco_train.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path, "coco")


def write_coco(root: Path, rows: list[dict[str, Any]]) -> None:
    (root / "dataset_coco.json").write_text(json.dumps({"images": rows, "dataset": "coco"}))


def test_string_column() -> None:
    strings = ["", "plain", "caf\u00e9 \u4eba", ""]
    column = StringColumn(strings)
    assert list(column) == strings and len(column) == 4
    assert len(StringColumn([])) == 0
    with pytest.raises(IndexError, match="string 4 of 4"):
        column[4]
