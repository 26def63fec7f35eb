import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tbps.config.data import Benchmark
from tbps.data.annotations import read_annotations
from tbps.data.image_files import ImageFiles
from tbps.data.label_maps import IMAGE_DIGEST, decode_map, map_path
from tbps.data.label_sets import ATR, PASCAL
from tbps.data.parsing_cache import Manifest, label_sets_of, read_manifest
from tbps.data.readers.mals import NUM_ATTRIBUTES
from tbps.synthetic.contact_sheet import contact_sheet
from tbps.synthetic.person import Crowd
from tbps.synthetic.row_files import RowFile
from tbps.synthetic.world import WorldSummary, write_world

ANNOTATION = {
    "cuhk-pedes": "reid_raw.json",
    "icfg-pedes": "ICFG-PEDES.json",
    "rstpreid": "data_captions.json",
    "mals": "gene_attrs/g_4x_attrs.json",
    "coco": "dataset_coco.json",
}
PATH_FIELD = {"cuhk-pedes": "file_path", "icfg-pedes": "file_path", "rstpreid": "img_path", "mals": "image"}

Worlds = dict[str, tuple[Path, WorldSummary, list[dict[str, Any]]]]


def write(root: Path, benchmark: Benchmark, num_identities: int = 26, **more: Any) -> WorldSummary:
    arguments: dict[str, Any] = {"seed": 1, "workers": 1, "image_px": (48, 24)} | more
    return write_world(root, benchmark=benchmark, num_identities=num_identities, **arguments)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    made: Worlds = {}
    names: tuple[Benchmark, ...] = ("cuhk-pedes", "icfg-pedes", "rstpreid", "mals", "coco")
    for benchmark in names:
        root = tmp_path_factory.mktemp(benchmark)
        summary = write(root, benchmark)
        rows = json.loads((root / ANNOTATION[benchmark]).read_text(encoding="utf-8"))
        if benchmark == "coco":
            assert set(rows) == {"images", "dataset"} and rows["dataset"] == "coco"
            rows = rows["images"]
        made[benchmark] = (root, summary, rows)
    return made


def fingerprints(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("benchmark", ["cuhk-pedes", "mals"])
def test_bytes_do_not_depend_on_workers_nor_on_what_was_there(tmp_path: Path, benchmark: Benchmark) -> None:
    num_identities = 26 if benchmark == "cuhk-pedes" else 100
    write(tmp_path / "one", benchmark, num_identities, image_px=(24, 12))
    write(tmp_path / "two", "rstpreid", 24, image_px=(24, 12))
    write(tmp_path / "two", benchmark, num_identities, image_px=(24, 12), workers=2)
    assert fingerprints(tmp_path / "one") == fingerprints(tmp_path / "two")


def test_another_seed_gives_another_world(tmp_path: Path) -> None:
    write(tmp_path / "one", "mals", 3)
    write(tmp_path / "two", "mals", 3, seed=2)
    one, two = fingerprints(tmp_path / "one"), fingerprints(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(one[name] != two[name] for name in one if name.endswith((".jpg", "attrs.json")))


@pytest.mark.parametrize(
    ("benchmark", "fields", "first_id", "captions", "splits"),
    [
        (
            "cuhk-pedes",
            {"split", "captions", "file_path", "processed_tokens", "id"},
            1,
            2,
            {"train": 10, "val": 8, "test": 8},
        ),
        ("icfg-pedes", {"split", "captions", "file_path", "processed_tokens", "id"}, 0, 1, {"train": 18, "test": 8}),
        ("rstpreid", {"id", "img_path", "captions", "split"}, 0, 2, {"train": 10, "val": 8, "test": 8}),
    ],
)
def test_rows_are_as_published(
    worlds: Worlds,
    benchmark: str,
    fields: set[str],
    first_id: int,
    captions: int,
    splits: dict[str, int],
) -> None:
    root, summary, rows = worlds[benchmark]
    assert all(set(row) == fields for row in rows)
    assert all(len(row["captions"]) == captions for row in rows)
    assert {row["id"] for row in rows} == set(range(first_id, first_id + 26))
    split_of_id = {(row["id"], row["split"]) for row in rows}
    assert Counter(split for _, split in split_of_id) == splits == summary.split_identities
    assert len(split_of_id) == 26, "no identity is in two splits"
    assert summary.num_images == len(rows) == len({row[PATH_FIELD[benchmark]] for row in rows})
    assert summary.num_pairs == captions * len(rows)
    for row in rows:
        assert (root / "imgs" / row[PATH_FIELD[benchmark]]).is_file()
        assert all(15 <= len(caption.split()) <= 70 for caption in row["captions"])
        if "processed_tokens" in row:
            assert len(row["processed_tokens"]) == captions


def test_numbers_of_images_and_their_names(worlds: Worlds) -> None:
    per_identity = {name: Counter(row["id"] for row in worlds[name][2]) for name in PATH_FIELD if name != "mals"}
    assert set(per_identity["cuhk-pedes"].values()) <= {2, 3, 4}
    assert set(per_identity["icfg-pedes"].values()) <= {5, 6, 7, 8}
    assert set(per_identity["rstpreid"].values()) == {5}
    folders = {row["file_path"].split("/")[0] for row in worlds["cuhk-pedes"][2]}
    assert folders <= {"cam_a", "cam_b", "CUHK01", "CUHK03", "Market", "test_query", "train_query"}
    assert len(folders) >= 5
    cameras = {(row["id"], row["img_path"].split("_")[1]) for row in worlds["rstpreid"][2]}
    assert len(cameras) == len(worlds["rstpreid"][2]), "five different cameras each"
    assert all("/" not in row["img_path"] for row in worlds["rstpreid"][2])
    crossed = [row for row in worlds["icfg-pedes"][2] if not row["file_path"].startswith(row["split"])]
    assert 0 < len(crossed) < len(worlds["icfg-pedes"][2]) / 2, "folders are not the split"


def test_mals_rows(worlds: Worlds) -> None:
    root, summary, rows = worlds["mals"]
    assert len(rows) == summary.num_identities == summary.num_images == summary.num_pairs == 26
    assert [path.name for path in (root / "gene_attrs").iterdir()] == ["g_4x_attrs.json"]
    crowd = Crowd(seed=1, twin_rate=0.25, split_starts=frozenset({0}))
    for number, row in enumerate(rows):
        assert set(row) == {"image", "caption", "image_id", "label"}
        assert (root / row["image"]).is_file()
        assert row["image"].startswith("gene_crop/4x/")
        assert len(row["label"]) == NUM_ATTRIBUTES
        assert row["label"][0] == (crowd.person(number).gender == "man")
        assert row["label"][3] == (crowd.person(number).hat is None)
    assert len({row["image_id"] for row in rows}) == 26


def test_coco_rows(worlds: Worlds) -> None:
    root, summary, rows = worlds["coco"]
    assert len(rows) == summary.num_identities == summary.num_images == 26 and summary.num_pairs == 5 * 26
    assert Counter(row["split"] for row in rows) == {"restval": 3, "train": 7, "val": 8, "test": 8}
    assert [row["imgid"] for row in rows] == list(range(26)) and len({row["cocoid"] for row in rows}) == 26
    sentences = [sentence for row in rows for sentence in row["sentences"]]
    assert [sentence["sentid"] for sentence in sentences] == [number for row in rows for number in row["sentids"]]
    assert len({sentence["sentid"] for sentence in sentences}) == 5 * 26
    for row in rows:
        keys = {"filepath", "filename", "imgid", "cocoid", "split", "sentids", "sentences"}
        assert set(row) == keys and row["filepath"] == ("train2014" if row["split"] == "train" else "val2014")
        assert row["filename"] == f"COCO_{row['filepath']}_{row['cocoid']:012d}.jpg"
        assert (root / row["filepath"] / row["filename"]).is_file()
        assert len({sentence["raw"] for sentence in row["sentences"]}) == 5, "five different captions"
        assert all(set(sentence) == {"tokens", "raw", "imgid", "sentid"} for sentence in row["sentences"])


def test_another_benchmark_takes_the_place_of_coco(tmp_path: Path) -> None:
    write(tmp_path, "coco", 24, image_px=(24, 12), parsing=False)
    write(tmp_path, "mals", 3, image_px=(24, 12), parsing=False)
    assert {path.name for path in tmp_path.iterdir()} == {"gene_attrs", "gene_crop", "synthetic_world.json"}


def test_rows_of_sets_to_pretrain_on(tmp_path: Path) -> None:
    for benchmark in ("luperson-mllm", "synth-pedes", "ham-pedes"):
        write(tmp_path / benchmark, benchmark, 3, parsing=False)
    files = sorted((tmp_path / "luperson-mllm/caption").iterdir())
    assert [file.name for file in files] == ["Td-qwen.json", "Td-shikra.json", "Ts-qwen.json", "Ts-shikra.json"]
    said = [json.loads(file.read_text()) for file in files]
    assert all(list(one) == [f"LUPerson-MLLM/000000{number}.jpg" for number in range(3)] for one in said)
    assert len({caption for one in said for caption in one.values()}) == 12
    rows = json.loads((tmp_path / "synth-pedes/synthpedes-dataset.json").read_text())
    assert all(set(row) == {"id", "file_path", "attributes", "captions", "prompt_caption"} for row in rows)
    assert all((len(row["captions"]), len(row["prompt_caption"])) == (2, 1) for row in rows)
    assert {row["file_path"].rpartition("/")[0] for row in rows} == {"Part1/0", "Part2/1", "Part3/2"}
    images = json.loads((tmp_path / "ham-pedes/random100w_2HAMcaptions.json").read_text())
    assert all(len(captions) == 2 and (tmp_path / "ham-pedes" / path).is_file() for path, captions in images.items())


@pytest.mark.parametrize("benchmark", ["cuhk-pedes", "icfg-pedes", "rstpreid", "mals", "coco"])
def test_our_reader_and_every_parsing_map(worlds: Worlds, benchmark: Benchmark) -> None:
    root, summary, _ = worlds[benchmark]
    read, files = read_annotations(root, benchmark), ImageFiles(root, benchmark)
    assert {name: split.num_identities for name, split in read.splits.items()} == summary.split_identities
    for split in read.splits.values():
        for path in split.image_path:
            for label_set in (ATR, PASCAL):
                content = (root / map_path(path, label_set.name)).read_bytes()
                with Image.open(files.find(path)) as image, Image.open(io.BytesIO(content)) as labels:
                    assert image.size == labels.size == (24, 48)
                    assert labels.mode == "P"
                    assert labels.info[IMAGE_DIGEST] == hashlib.sha256(files.read(path)).hexdigest()
                assert decode_map(content, label_set).any()
    assert label_sets_of(root) == ["atr", "pascal"]
    assert read_manifest(root, "pascal") == Manifest(label_set="pascal", parser="synthetic world", parser_sha256=None)


def test_people_tell_the_truth_about_twins(worlds: Worlds) -> None:
    root, summary, rows = worlds["rstpreid"]
    people = [json.loads(line) for line in (root / "people.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [person["id"] for person in people] == list(range(26))
    twins = [person for person in people if person["twin_of"] is not None]
    assert len(twins) == summary.num_twins > 0
    for twin in twins:
        other = people[twin["twin_of"]]
        assert other["split"] == twin["split"]
        different = [name for name in twin["attributes"] if twin["attributes"][name] != other["attributes"][name]]
        assert different == twin["differs_in"]
        assert len(different) == 1
    assert [image["path"] for person in people for image in person["images"]] == [row["img_path"] for row in rows]


def test_without_parsing_and_with_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write(
        tmp_path, "icfg-pedes", 24, image_px=(24, 12), parsing=False, progress=lambda done, total: seen.append((done, total))
    )
    assert not (tmp_path / "parsing").exists()
    assert seen[-1] == (24, 24)
    assert seen == sorted(seen)
    assert json.loads((tmp_path / "synthetic_world.json").read_text())["complete"] is True


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"is not empty \(found thesis.tex\) and is no earlier synthetic world; give a new"):
        write(tmp_path, "mals", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        write(tmp_path / "thesis.tex", "mals", 2)


@pytest.mark.parametrize(
    ("benchmark", "change", "message"),
    [
        ("cuhk-pedes", {"num_identities": 23}, "num_identities is 23, expected at least 24 for cuhk-pedes"),
        ("icfg-pedes", {"num_identities": 15}, "expected at least 16 for icfg-pedes"),
        ("mals", {"num_identities": 0}, "num_identities is 0, expected at least 1 for mals"),
        ("rstpreid", {"split_share": (0.5, 0.5)}, "leaves 0 of 26 identities to train on"),
        ("mals", {"workers": 0}, "workers is 0, expected at least 1"),
        ("mals", {"image_px": (10, 10)}, r"image_px is \(10, 10\), expected \(height, width\) of at least"),
        ("mals", {"twin_rate": 1.5}, "twin_rate is 1.5, expected a share from 0 to 1"),
        ("mals", {"wrong_detail_rate": -0.1}, "wrong_detail_rate is -0.1, expected a share"),
        (
            "flickr",
            {},
            "benchmark is 'flickr', expected one of cuhk-pedes, icfg-pedes, rstpreid, mals, coco, luperson-",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, benchmark: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "new", benchmark, **change)
    assert not (tmp_path / "new").exists()


def test_json_rows_appear_only_when_complete(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "rows.json")
    rows.add({"a": 1})
    rows.add({"a": 2})
    assert not (tmp_path / "rows.json").exists()
    rows.close(complete=True)
    assert json.loads((tmp_path / "rows.json").read_text()) == [{"a": 1}, {"a": 2}]
    RowFile(tmp_path / "empty.json").close(complete=True)
    assert json.loads((tmp_path / "empty.json").read_text()) == []
    RowFile(tmp_path / "never.json").close(complete=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.json", "rows.json"]


def test_contact_sheet(worlds: Worlds, tmp_path: Path) -> None:
    root = worlds["rstpreid"][0]
    path = contact_sheet(
        root, tmp_path / "sub" / "sheet.png", benchmark="rstpreid", num_identities=3, columns=2, with_parsing=True
    )
    with Image.open(path) as sheet:
        assert sheet.height == 2 * (240 + 12)
        assert len(set(sheet.resize((64, 64)).getdata())) > 100


def test_contact_sheet_names_what_is_missing(tmp_path: Path) -> None:
    write(tmp_path, "mals", 2, parsing=False)
    with pytest.raises(ValueError, match=r"has no parsing map of gene_crop/4x/0000000.jpg, expected"):
        contact_sheet(tmp_path, tmp_path / "sheet.png", benchmark="mals", with_parsing=True)
    (tmp_path / "gene_crop/4x/0000001.jpg").unlink()
    with pytest.raises(ValueError, match=r"image gene_crop/4x/0000001.jpg is not below .*; write the data set again"):
        contact_sheet(tmp_path, tmp_path / "sheet.png", benchmark="mals")
