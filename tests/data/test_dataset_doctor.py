import json
from pathlib import Path
from typing import Any

import pytest
from tiny_folder import jpeg_bytes, write_folder

from tbps.config.data import Benchmark
from tbps.data.dataset_doctor import DoctorReport, SplitReport, examine
from tbps.data.official_split import OFFICIAL, Counts


def rewrite(root: Path, rows: list[dict[str, Any]]) -> None:
    (root / "reid_raw.json").write_text(json.dumps(rows))


@pytest.mark.parametrize("benchmark", ["cuhk-pedes", "icfg-pedes", "rstpreid"])
def test_complete_small_data_set_is_usable(tmp_path: Path, benchmark: Benchmark) -> None:
    write_folder(tmp_path, benchmark)
    report = examine(tmp_path, benchmark, decode=True, workers=2)
    published = OFFICIAL[benchmark]["train"]
    text = report.text()
    assert report.usable and not report.official
    assert f"train: 5 identities (published: {published.identities:,}), 10 images (published: {published.images:,})" in text
    assert "20 captions" in text and "test: 1 identities" in text
    assert "usable, but not of the published sizes" in text and "every image was decoded" in text
    assert "ERROR" not in text


def test_mals_has_no_test_split(tmp_path: Path) -> None:
    write_folder(tmp_path, "mals")
    report = examine(tmp_path, "mals")
    assert report.usable
    assert "12 images (published: 1,510,330)" in report.text() and "identities with one image" not in report.text()
    assert "images and parsing maps were not decoded (--decode does)" in report.text()


def test_coco_has_an_identity_for_each_image(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "coco")
    report = examine(tmp_path, "coco", decode=True, workers=1)
    assert report.usable and not report.official
    sizes = "10 identities, 10 images (published: 113,287), 20 captions (published: 566,747)"
    assert f"train: {sizes}" in report.text() and "ERROR" not in report.text()
    assert "val: 1 identities, 1 images (published: 5,000)" in report.text()
    assert "identities with one image" not in report.text()
    for row in rows:
        (tmp_path / row["filepath"] / row["filename"]).unlink()
    (tmp_path / "train2014").rmdir()
    report = examine(tmp_path, "coco")
    assert not report.usable
    assert "ERROR: 10 images missing: val2014/COCO_val2014_000000000000.jpg" in report.text()
    assert "ERROR: folders not found: train2014\n" in report.text()


def test_published_sizes() -> None:
    official = OFFICIAL["cuhk-pedes"]
    assert sum(counts.captions or 0 for counts in official.values()) == 80_440
    assert sum(counts.images or 0 for counts in official.values()) == 40_206
    assert sum(counts.images or 0 for counts in OFFICIAL["icfg-pedes"].values()) == 54_522
    assert sum(counts.images or 0 for counts in OFFICIAL["coco"].values()) == 123_287
    splits = [SplitReport(name=name, counts=counts, official=counts) for name, counts in official.items()]
    report = DoctorReport(
        root=Path("r"), benchmark="cuhk-pedes", splits=splits, missing_splits=[], missing_folders=[], decoded=False
    )
    assert report.official and "usable: complete, with the published sizes" in report.text()
    assert "published:" not in report.text()
    other = SplitReport(name="a", counts=Counts(identities=1, images=2, captions=3), official=official["val"])
    assert not other.is_official


def test_missing_images_and_folders(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    for row in rows[1::2]:
        (tmp_path / "imgs" / row["file_path"]).unlink()
    (tmp_path / "imgs/cam_1").rmdir()
    # Another extension is no missing image.
    (tmp_path / "imgs" / rows[0]["file_path"]).rename((tmp_path / "imgs" / rows[0]["file_path"]).with_suffix(".png"))
    report = examine(tmp_path, "cuhk-pedes")
    assert not report.usable
    assert "ERROR: 5 images missing: cam_1/0000_1.jpg, cam_1/0001_3.jpg" in report.text()
    assert "ERROR: folders not found: cam_1" in report.text()
    assert "NOT USABLE: repair the lines marked ERROR" in report.text()


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_image_is_found_by_decoding(tmp_path: Path, workers: int) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    (tmp_path / "imgs" / rows[4]["file_path"]).write_bytes(jpeg_bytes(0)[:300])
    assert examine(tmp_path, "cuhk-pedes").usable
    report = examine(tmp_path, "cuhk-pedes", decode=True, workers=workers)
    assert not report.usable
    assert "ERROR: 1 images that cannot be decoded: cam_0/0002_4.jpg" in report.text()


def test_odd_captions(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    rows[0]["captions"] = ["?", "two words"]
    rows[1]["captions"] = ["word " * 500, "A man in a caf\u00e9 coat."]
    rows[2]["captions"] = ["The very same sentence."]
    rows[4]["captions"] = ["the very same sentence. "]
    rewrite(tmp_path, rows)
    report = examine(tmp_path, "cuhk-pedes")
    text = report.text()
    assert not report.usable
    assert "ERROR: 1 captions without a word: cam_0/0000_0.jpg#0" in text
    assert "note: 1 captions of fewer than 3 words: cam_0/0000_0.jpg#1" in text
    assert "note: 1 captions of more than 100 words: cam_1/0000_1.jpg#0" in text
    assert "note: 1 captions with letters beyond ASCII: cam_1/0000_1.jpg#1" in text
    assert "note: 1 captions that an earlier identity has word for word: cam_0/0002_4.jpg#0" in text


def test_identity_with_one_image_is_noted(tmp_path: Path) -> None:
    write_folder(tmp_path, "cuhk-pedes", images_each=1)
    report = examine(tmp_path, "cuhk-pedes")
    assert report.usable
    assert "note: 5 identities with one image: cam_0/0000_0.jpg" in report.text()


def test_missing_splits(tmp_path: Path) -> None:
    rows = write_folder(tmp_path, "cuhk-pedes")
    assert "note: no row of split val; choose the last checkpoint" in examine(tmp_path, "cuhk-pedes").text()
    rewrite(tmp_path, [row for row in rows if row["split"] == "train"])
    report = examine(tmp_path, "cuhk-pedes")
    assert not report.usable and "ERROR: no row of split test" in report.text()
