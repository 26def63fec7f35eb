"""Tars as other webdataset tools write them, and our shards of index format 1, indexed in place by the command."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_server import serve
from tiny_folder import NEEDS, caption, jpeg_bytes, make_data, make_encoder, write_folder

from tbps.command import main
from tbps.data.column import map_columns, write_columns
from tbps.data.loader import make_loader
from tbps.data.pairs import open_pairs
from tbps.data.shard_index import read_index
from tbps.data.shard_writer import write_shards
from tbps.data.shards import verify_shards

Sample = Mapping[str, bytes]


def write_tar(path: Path, samples: Mapping[str, Sample], *, mode: str = "w") -> None:
    """Members `<key>.<extension>`, with what other tools leave around them: folders, long names, PAX headers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("some")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for key, members in samples.items():
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.pax_headers = len(content), {"comment": "x" * 600}
                tar.addfile(info, io.BytesIO(content))


def sample(number: int, **fields: Any) -> dict[str, bytes]:
    """An image, its text, and JSON with both and more."""
    content = {"id": number // 2, "about": {"captions": [caption(number, which) for which in range(2)]}, **fields}
    return {"jpg": jpeg_bytes(number), "txt": caption(number, 0).encode(), "json": json.dumps(content).encode()}


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two tars of four samples, keys alike in both, one with folders and a long name."""
    for shard in range(2):
        keys = [f"some/{'long' * 40}/{number:04d}" if shard else f"{number:04d}" for number in range(4)]
        write_tar(tmp_path / f"tars/{shard:05d}.tar", {key: sample(4 * shard + n) for n, key in enumerate(keys)})
    return tmp_path / "tars"


def test_tars_are_read_where_they_lie(tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: zlib.crc32(path.read_bytes()) for path in tars.iterdir()}
    words = ["--benchmark", "cuhk-pedes", "--caption-key", "json:about.captions", "--identity-key", "json:id"]
    assert main(["data", "index", str(tars), *words]) == 0
    assert capsys.readouterr().out == f"{tars}: train: 16 pairs of 8 images, 4 identities, in 2 shards\n"
    assert before == {name: zlib.crc32((tars / name).read_bytes()) for name in before}
    pairs = open_pairs(make_data(tars))
    for pair in range(16):
        assert pairs.image_bytes(pair) == jpeg_bytes(pair // 2)
        assert pairs.caption(pair) == caption(pair // 2, pair % 2)
    assert pairs.key(3) == "00000/0001.jpg#1" and pairs.key(9).startswith("00001/some/longlong")
    assert pairs.identity_N.tolist() == [pair // 4 for pair in range(16)]
    assert verify_shards(tars) == []
    # A second split beside the first; and training batches.
    write_tar(tars / "later/0.tar", {str(number): sample(number) for number in range(8, 10)})
    assert main(["data", "index", str(tars), *words, "--split", "test", "--tars", "later/*.tar", "--workers", "1"]) == 0
    assert list(read_index(str(tars), cache=tmp_path)) == ["train", "test"]
    data = make_data(tars, workers=1, image_px=(32, 16))
    loader = make_loader(open_pairs(data), make_encoder(tmp_path), data, NEEDS, seed=0, start_step=0, num_steps=2)
    assert sorted(key for batch in loader for key in batch.keys) == sorted(pairs.key(pair) for pair in range(16))


def test_no_tar_is_in_train_and_in_test(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "index", str(tars), "--benchmark", "mals", "--workers", "1"]
    assert main(words) == 0 and main([*words, "--split", "val", "--tars", "*1.tar"]) == 0  # val is the user's own affair
    shutil.copy(tars / "00001.tar", tars / "copy")
    for pattern in ("*1.tar", "copy"):
        assert main([*words, "--split", "test", "--tars", pattern]) == 2
        told = pattern.replace("*", "0000")
        assert f"{told} would be in test and is in train already; give the tars of each split" in capsys.readouterr().err
    assert main([*words, "--tars", "*0.tar"]) == 0 and main([*words, "--split", "val", "--tars", "*0.tar"]) == 0
    assert main([*words, "--split", "test", "--tars", "*1.tar"]) == 0
    assert main(words) == 2  # now train would take a tar of test


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    marked = {key: content if key == "jpg" else b"\xef\xbb\xbf" + content for key, content in sample(0).items()}
    write_tar(tmp_path / "0.tar", {"a": marked})
    for keys, num_captions in ([], 1), (["--caption-key", "json:about.captions"], 2):
        assert main(["data", "index", str(tmp_path), "--benchmark", "mals", "--workers", "1", *keys]) == 0
        assert [open_pairs(make_data(tmp_path, "mals")).caption(n) for n in range(num_captions)] == [
            caption(0, n) for n in range(num_captions)
        ]


def test_an_id_is_one_however_it_is_written(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "0.tar", {str(n): sample(n, id=written) for n, written in enumerate((1, 1.0, "1", " 01", 2, "two"))}
    )
    keys = ["--caption-key", "json:about.captions", "--identity-key", "json:id"]
    assert main(["data", "index", str(tmp_path), "--benchmark", "cuhk-pedes", *keys, "--workers", "1"]) == 0
    assert open_pairs(make_data(tmp_path)).identity_N.tolist() == [0] * 8 + [1] * 2 + [2] * 2


def test_texts_every_image_alone_and_a_url(tars: Path, tmp_path: Path) -> None:
    assert main(["data", "index", str(tars), "--benchmark", "mals"]) == 0
    with serve(tars) as server:
        pairs = open_pairs(make_data(server.url, "mals", cache=str(tmp_path / "cache")))
        assert pairs.identity_N.tolist() == list(range(8))
        assert [pairs.caption(pair) for pair in range(8)] == [caption(pair, 0) for pair in range(8)]
        assert pairs.image_bytes(7) == jpeg_bytes(7)


@pytest.mark.parametrize(
    ("spoil", "words", "part"),
    [
        (
            {"jpg": None},
            [],
            "00000.tar, sample a has no jpg or jpeg or png or webp or bmp, found json, txt; name the",
        ),
        ({}, ["--image-key", "tif"], "sample a has no tif, found jpg, json, txt; name the image with --image-key"),
        ({"txt": None}, [], "sample a has no txt, found jpg, json; name another with --caption-key"),
        ({"txt": b" \n"}, [], "sample a: its caption is '', expected a text or a list of texts; see --caption-key"),
        ({"txt": b"\xff"}, [], "sample a: its txt cannot be read ("),
        ({"json": b"{"}, ["--caption-key", "json:about"], "sample a: its json cannot be read ("),
        ({}, ["--caption-key", "json:text"], "its json has no field 'text', found 'id', 'about'; name another with --cap"),
        ({}, ["--caption-key", "json:id"], "sample a: its caption is 0, expected a text"),
        ({}, ["--identity-key", "json:id.x"], "its json has no field 'x', found 0; name another with --identity-key"),
        ({}, ["--identity-key", "json:about"], "sample a: its identity is {"),
        ({}, ["--benchmark", "rstpreid"], "rstpreid needs to know who is shown: name the field with --identity-key"),
        ({}, ["--tars", "x*"], "holds no x*; give the folder of the tars, or their pattern with --tars"),
    ],
)
def test_what_cannot_be_indexed(
    spoil: dict[str, bytes | None], words: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {name: content for name, content in {**sample(0), **spoil}.items() if content is not None}
    write_tar(tmp_path / "00000.tar", {"a": members})
    assert main(["data", "index", str(tmp_path), "--benchmark", "mals", "--workers", "1", *words]) == 2
    assert part in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["00000.tar"]


def test_tars_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(tmp_path / "0.tar", {"a": sample(0)}, mode="w:gz")
    for content, part in ((None, "0.tar is no plain tar ("), (b"\0" * 10_240, "0.tar holds no file; remove it")):
        if content is not None:
            (tmp_path / "0.tar").write_bytes(content)
        assert main(["data", "index", str(tmp_path), "--benchmark", "mals"]) == 2
        assert part in capsys.readouterr().err
    write_tar(tmp_path / "0.tar", {"a": sample(0)})
    full = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(full[: full.index(jpeg_bytes(0)) + 100])
    assert main(["data", "index", str(tmp_path), "--benchmark", "mals"]) == 2
    assert "0.tar" in (told := capsys.readouterr().err) and ("no plain tar" in told or "ends within" in told)


def test_training_points_to_the_command(tars: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r'tars holds tar files without an index: run "tbps data index \S+/tars --benchmark m'
    ):
        open_pairs(make_data(tars, "mals"))
    with (
        serve(tars) as server,
        pytest.raises(ValueError, match=r"tbps-index.json: the server answers 404 .* credentials; shards need this file"),
    ):
        open_pairs(make_data(server.url, "mals", cache=str(tmp_path / "cache")))


def _as_format_1(shards: Path) -> None:
    """The index as it was before captions were in it."""
    index = json.loads((shards / "tbps-index.json").read_text())
    for name, split in index["splits"].items():
        starts, sizes, crcs = [], [], []
        shard_I = []
        for number, shard in enumerate(split["shards"]):
            with tarfile.open(shards / shard["name"]) as tar:
                members = list(tar)
                for image, row in zip(members[::2], members[1::2], strict=True):
                    parts = (image, row)
                    starts.append([part.offset_data for part in parts])
                    sizes.append([part.size for part in parts])
                    crcs.append([zlib.crc32(tar.extractfile(part).read()) for part in parts])  # type: ignore[union-attr]
                    shard_I.append(number)
        pairs = open_pairs(make_data(shards), name)
        np.savez(
            shards / f"{name}-index.npz",
            shard_I=np.array(shard_I, np.int32),
            start_I2=np.array(starts),
            size_I2=np.array(sizes),
            crc_I2=np.array(crcs, np.uint32),
            extension_I=np.array(["jpg"] * len(starts)),
            identity_I=pairs.identity_N[np.unique(pairs.image_N, return_index=True)[1]],
            image_N=pairs.image_N,
            caption_number_N=np.array([int(pairs.key(pair).rpartition("#")[2]) for pair in range(len(pairs))]),
        )
        split["index"]["name"] = f"{name}-index.npz"
    (shards / "tbps-index.json").write_text(json.dumps({**index, "format": 1}))
    for table in shards.glob("*.safetensors"):
        table.unlink()


def test_older_shards_are_brought_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "folder", "cuhk-pedes")
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "new")
    shards = Path(shutil.copytree(tmp_path / "new", tmp_path / "old"))
    _as_format_1(shards)
    with pytest.raises(
        ValueError, match=r'have index format 1, expected 5; run "tbps data index \S+/old" once, which leaves the shards as'
    ):
        open_pairs(make_data(shards))
    with (
        serve(shards) as server,
        pytest.raises(ValueError, match=r'format 1, expected 5; run "tbps data index" once on the folder behind it'),
    ):
        open_pairs(make_data(server.url, cache=str(tmp_path / "cache")))
    assert main(["data", "index", str(shards)]) == 0
    assert capsys.readouterr().out == f"{shards}: train, test indexed anew\n"
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()
    }
    assert main(["data", "index", str(shards)]) == 0
    assert capsys.readouterr().out == f"{shards}: the index is up to date\n"
    assert main(["data", "index", str(tmp_path / "folder")]) == 2
    assert "holds no tbps-index.json; say with --benchmark and --caption-key what its tars hold" in capsys.readouterr().err


@pytest.mark.parametrize("scattered", [False, True])
def test_a_table_of_before_is_described_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scattered: bool
) -> None:
    write_folder(tmp_path / "folder", "cuhk-pedes")
    if scattered:
        rows = json.loads((tmp_path / "folder/reid_raw.json").read_text())
        (tmp_path / "folder/reid_raw.json").write_text(json.dumps(rows[::2] + rows[1::2]))
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "shards")
    index = tmp_path / "shards/tbps-index.json"
    new = json.loads(index.read_text())
    table = tmp_path / "shards/train-index.safetensors"
    columns = map_columns(table)
    assert ("by_identity_N" in columns) == scattered
    expected = [open_pairs(make_data(tmp_path / "shards")).siblings(pair).tolist() for pair in range(20)]
    write_columns(table, {name: column for name, column in columns.items() if name != "by_identity_N"})
    before = table.read_bytes()
    old = {name: dict(split) for name, split in new["splits"].items()}
    old["train"]["index"] = {"name": table.name, "num_bytes": len(before), "sha256": hashlib.sha256(before).hexdigest()}
    for split in old.values():
        del split["pieces"], split["by_identity"]
    index.write_text(json.dumps({**new, "format": 4, "splits": old}))
    for name in ("train", "test"):
        (tmp_path / f"shards/{name}-index.crc32").unlink()
    assert main(["data", "index", str(tmp_path / "shards")]) == 0
    assert capsys.readouterr().out.endswith("shards: train, test indexed anew\n")
    train = json.loads(index.read_text())["splits"]["train"]
    assert table.read_bytes() == before and train["pieces"]["num_bytes"] == 4 and train["by_identity"] == (not scattered)
    pairs = open_pairs(make_data(tmp_path / "shards"))
    assert [pairs.siblings(pair).tolist() for pair in range(20)] == expected
    index.write_text(json.dumps({**new, "format": 4, "splits": old}))
    table.write_bytes(before[:-1] + b"?")
    assert main(["data", "index", str(tmp_path / "shards")]) == 2
    assert "train-index.safetensors: sha256 is" in capsys.readouterr().err
