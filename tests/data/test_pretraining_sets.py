"""LUPerson-MLLM, WebPerson, SYNTH-PEDES and HAM-PEDES: what is read of their files, what is left out, what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tiny_folder import jpeg_bytes

from tbps.config.data import Benchmark
from tbps.data.annotations import read_annotations
from tbps.data.dataset_doctor import examine
from tbps.data.image_files import ImageFiles
from tbps.data.layouts import LAYOUTS

FILES: dict[Benchmark, str] = {
    "luperson-mllm": "caption/Ts-qwen.json",
    "webperson": "100w.json",
    "synth-pedes": "synthpedes-dataset.json",
    "ham-pedes": "random100w_2HAMcaptions.json",
}


def write(root: Path, file: str, content: object) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def test_luperson_mllm_joins_the_captions_of_an_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    write(tmp_path, "caption/Td-qwen.json", {"/data0/part1/a.jpg": "A man. [hair description]", "part1/b.jpg": "A woman."})
    write(tmp_path, "caption/Td-shikra.json", {"part2/a.jpg": "A man<ph_st>.", "b.jpg": " . "})
    write(
        tmp_path,
        "caption/Ts-qwen.json",
        {"part1/a.jpg": "A tall man.", "b.jpg": "She walks.", "c.jpg": "[description]"},
    )
    write(tmp_path, "caption/other.json", {"d.jpg": "Not read."})
    annotations = read_annotations(tmp_path, "luperson-mllm")
    train = annotations.split("train")
    assert list(train.image_path) == ["b.jpg", "a.jpg"] and train.image_identity_I.tolist() == [0, 1]
    assert list(train.caption) == ["A woman.", "A tall man.", "She walks."] and train.image_N.tolist() == [0, 1, 0]
    assert not annotations.persons and list(annotations.splits) == ["train"]
    told = "captions left out: 1 without a word, 1 left as their template was; 2 images have no other there"
    assert f"Td-shikra.json: {told}" in caplog.text
    assert "Td-qwen.json: captions left out: 0 without a word, 1 left as their template was; 1 images" in caplog.text
    assert "Ts-qwen.json: captions left out: 0 without a word, 1 left as" in caplog.text
    for place in ("LUPerson-MLLM/a.jpg", "b.jpg"):
        write(tmp_path, place, "bytes")
        assert ImageFiles(tmp_path, "luperson-mllm").find(Path(place).name) == tmp_path / place


def test_web_person_has_two_captions_of_an_image(tmp_path: Path) -> None:
    both = {"caption1": "A man./nHe wears black/navy shoes./n", "caption2": "He walks."}
    write(tmp_path, "100w.json", [{"00/a.jpg": both}, {"00/b.jpg": {"caption1": "", "caption2": "A woman."}}])
    train = read_annotations(tmp_path, "webperson").split("train")
    assert list(train.image_path) == ["00/a.jpg", "00/b.jpg"] and train.image_N.tolist() == [0, 0, 1]
    assert list(train.caption) == ["A man. He wears black/navy shoes. ", "He walks.", "A woman."]
    write(tmp_path, "images/00/a.jpg", "bytes")
    assert ImageFiles(tmp_path, "webperson").find("00/a.jpg") == tmp_path / "images/00/a.jpg"


@pytest.mark.parametrize("name", ["synthpedes-dataset.json", "synthpedes_dataset.json"])
def test_synth_pedes_has_persons_and_prompt_captions(tmp_path: Path, name: str) -> None:
    row = {"id": 7, "file_path": "Part1/7/1.jpg", "attributes": ["man,black hair,unknown"]}
    rows: list[dict[str, Any]] = [
        {**row, "captions": ["A man.", "He walks."], "prompt_caption": ["A man with black hair."]},
        {**row, "file_path": "Part1/7/2.jpg", "captions": [], "prompt_caption": ["A man with no hat."]},
        {**row, "id": 8, "file_path": "Part2/8/1.jpg", "captions": ["A woman."]},
    ]
    write(tmp_path, name, rows)
    annotations = read_annotations(tmp_path, "synth-pedes")
    train = annotations.split("train")
    assert list(train.caption) == ["A man.", "He walks.", "A man with black hair.", "A man with no hat.", "A woman."]
    assert train.image_identity_I.tolist() == [0, 0, 1] and train.identity_N.tolist() == [0, 0, 0, 0, 1]
    assert annotations.persons and train.attribute_IA is None and train.annotated_range_2.tolist() == [7, 8]


def test_ham_pedes_knows_persons_by_their_folders(tmp_path: Path) -> None:
    said = {f"{path}.jpg": ["A man.", f"{path} walks."] for path in ("Part1/7/1", "Part1/7/2", "data/Part3/007/9", "alone")}
    write(tmp_path, "random100w_2HAMcaptions.json", said)
    annotations = read_annotations(tmp_path, "ham-pedes")
    train = annotations.split("train")
    assert train.image_identity_I.tolist() == [0, 0, 0, 1] and len(train.caption) == 8 and not annotations.persons
    assert annotations.ids == {"train": ("7",)}


WRONG: tuple[tuple[Benchmark, object, str], ...] = (
    ("luperson-mllm", [], r"Ts-qwen.json holds a list, expected an object with an entry for each image; download it again"),
    ("luperson-mllm", {"a.jpg": 3}, r"Ts-qwen.json, 'a.jpg': 'caption' is 3, expected a list of strings"),
    ("luperson-mllm", {"a/..": "A man."}, r"Ts-qwen.json, 'a/..': the image path '..' leaves the data set's folder"),
    ("luperson-mllm", {"a.jpg": ""}, r"luperson-mllm at \S+ has no row at all; download the annotations again"),
    (
        "luperson-mllm",
        '{"a.jpg": "A man.",\n"b.jpg": "A',
        r"is not valid JSON: line 2, column 10: Untermin.*: download",
    ),
    ("webperson", {"a.jpg": {}}, r"100w.json holds a dict, expected a list of rows"),
    ("webperson", [{"a.jpg": {"caption1": "A man."}}], r"100w.json, row 1: no field 'caption2', found 'caption1'"),
    ("webperson", [{"a.jpg": "A man."}], r"row 1: 'a.jpg' has 'A man.', expected caption1 and caption2; correct the row"),
    ("webperson", [{"/a.jpg": {"caption1": "A", "caption2": "B"}}], r"row 1: the image path '/a.jpg' leaves the data"),
    ("synth-pedes", [{"file_path": "a.jpg", "captions": ["A"]}], r"row 1: no field 'id', found 'file_path', 'captions'"),
    ("synth-pedes", [{"id": 7, "captions": ["A"]}], r"row 1: no field 'file_path', found 'id', 'captions'"),
    (
        "synth-pedes",
        [{"id": 7, "file_path": "a", "captions": []}],
        r"row 1: neither 'captions' nor 'prompt_caption' holds",
    ),
    (
        "synth-pedes",
        [{"id": 7, "file_path": "a", "captions": [4]}],
        r"row 1: 'captions' is \[4\], expected a list of",
    ),
    (
        "synth-pedes",
        [{"id": number, "file_path": "a", "captions": ["A man."]} for number in (7, 8)],
        r"has 1 images of two identities: a \(\S+, row 2\); correct the rows",
    ),
    ("synth-pedes", "[\n{}", r"is not valid JSON: line 2, column 3: .*; the file ends in the middle: download it again"),
    ("ham-pedes", {"Part1/7/1.jpg": {"captain": []}}, r"'Part1/7/1.jpg': 'captions' is {'captain': \[\]}, expected a list"),
    ("ham-pedes", [], r"holds a list, expected an object"),
)


@pytest.mark.parametrize(("benchmark", "content", "message"), WRONG)
def test_a_wrong_file_gets_one_sentence(tmp_path: Path, benchmark: Benchmark, content: object, message: str) -> None:
    write(tmp_path, FILES[benchmark], content)
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(tmp_path, benchmark)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("benchmark", FILES)
def test_wrong_encoding_and_wrong_folder(tmp_path: Path, benchmark: Benchmark) -> None:
    with pytest.raises(ValueError, match=rf"is not {benchmark}: looked for .*, found nothing; give the folder"):
        read_annotations(tmp_path, benchmark)
    (tmp_path / FILES[benchmark]).parent.mkdir(exist_ok=True)
    (tmp_path / FILES[benchmark]).write_bytes(b'{"a.jpg": "A caf\xe9."}')
    with pytest.raises(ValueError, match=r"json is not UTF-8 text: byte 16 is 0xe9; save it as UTF-8 or download it again"):
        read_annotations(tmp_path, benchmark)


@pytest.mark.parametrize("benchmark", FILES)
def test_doctor_counts_and_misses(tmp_path: Path, benchmark: Benchmark) -> None:
    both = {"caption1": "A man in red walks.", "caption2": "He has a hat on."}
    said = ["A man in red walks.", "He has a hat on."]
    content: dict[Benchmark, object] = {
        "luperson-mllm": {"x/a.jpg": said[0], "b.jpg": said[1]},
        "webperson": [{"a.jpg": both}, {"b.jpg": both}],
        "synth-pedes": [{"id": 7, "file_path": name, "captions": said} for name in ("a.jpg", "b.jpg")],
        "ham-pedes": {"a.jpg": said, "b.jpg": said},
    }
    write(tmp_path, FILES[benchmark], content[benchmark])
    folder = tmp_path / LAYOUTS[benchmark].image_folders[0]
    folder.mkdir(exist_ok=True)
    (folder / "a.jpg").write_bytes(jpeg_bytes(1))
    report = examine(tmp_path, benchmark, decode=True)
    assert not report.usable and "ERROR: 1 images missing: b.jpg" in report.text()
    (folder / "b.jpg").write_bytes(jpeg_bytes(2))
    report = examine(tmp_path, benchmark, decode=True)
    assert report.usable and "2 images" in report.text() and "no row of split" not in report.text()
