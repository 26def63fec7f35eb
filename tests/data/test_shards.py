import json
import multiprocessing
import pickle
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from hostile_server import HostileServer, serve
from tiny_folder import NEEDS, make_data, make_encoder, write_folder

from tbps.config.data import Benchmark
from tbps.data.column import StringColumn
from tbps.data.loader import make_loader
from tbps.data.pairs import PairSource, open_pairs
from tbps.data.shard_index import INDEX_NAME, MemberTable, StoredFile, read_index, write_index, write_table
from tbps.data.shard_writer import write_shards
from tbps.data.shards import ShardPairs, verify_shards


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A "megabyte" of 4 KiB: a shard then holds a few of the small images."""
    monkeypatch.setattr("tbps.data.shard_writer.BYTES_PER_MB", 1 << 12)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_folder(tmp_path / "folder", "cuhk-pedes")
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "shards", shard_mb=1)
    return tmp_path / "shards"


def assert_same_pairs(left: PairSource, right: PairSource) -> None:
    assert len(left) == len(right)
    assert np.array_equal(left.identity_N, right.identity_N) and np.array_equal(left.image_N, right.image_N)
    for index in range(len(left)):
        assert left.key(index) == right.key(index)
        assert left.caption(index) == right.caption(index)
        assert left.image_bytes(index) == right.image_bytes(index)
        assert left.siblings(index).tolist() == right.siblings(index).tolist()


@pytest.mark.parametrize("benchmark", ["cuhk-pedes", "icfg-pedes", "rstpreid", "mals", "coco"])
@pytest.mark.parametrize("workers", [1, 2])
def test_shards_hold_what_the_folder_holds(tmp_path: Path, benchmark: Benchmark, workers: int) -> None:
    write_folder(tmp_path / "folder", benchmark)
    index = write_shards(tmp_path / "folder", benchmark, tmp_path / "shards", shard_mb=1, workers=workers)
    assert len(index["train"].shards) > 2
    for split in index:
        folder = open_pairs(make_data(tmp_path / "folder", benchmark), split)
        assert_same_pairs(folder, open_pairs(make_data(tmp_path / "shards", benchmark), split))
        assert index[split].num_pairs == len(folder)
    assert verify_shards(tmp_path / "shards") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "shards"]


def test_shards_are_the_same_bytes_each_time(tmp_path: Path, shards: Path) -> None:
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "again", shard_mb=1, workers=2)
    assert read_index(str(shards), cache=tmp_path) == read_index(str(tmp_path / "again"), cache=tmp_path)


def test_webdataset_reads_them(shards: Path) -> None:
    dataset = webdataset.WebDataset([str(path) for path in sorted(shards.glob("train-*.tar"))], shardshuffle=False)
    samples = list(dataset.decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(10)]
    assert samples[3]["jpg"].size == (16, 48) and samples[3]["json"]["path"] == "cam_1/0001_3.jpg"
    assert samples[3]["json"]["identity"] == 1 and len(samples[3]["json"]["captions"]) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_are_those_of_the_folder(tmp_path: Path, shards: Path, workers: int) -> None:
    encoder = make_encoder(tmp_path)
    batches = []
    for root in (tmp_path / "folder", shards):
        data = make_data(root, workers=workers)
        batches.append(list(make_loader(open_pairs(data), encoder, data, NEEDS, seed=0, start_step=1, num_steps=4)))
    for left, right in zip(*batches, strict=True):
        assert left.keys == right.keys
        assert torch.equal(left.pixels_BCHW, right.pixels_BCHW)
        assert torch.equal(left.paired.token_ids_BL, right.paired.token_ids_BL)


def test_chosen_splits_limit_and_pickle(tmp_path: Path, shards: Path) -> None:
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "one", splits=["test"])
    with pytest.raises(ValueError, match="have no split 'train': they have test; choose one of them"):
        ShardPairs(str(tmp_path / "one"), "train", cache=tmp_path)
    pairs = ShardPairs(str(shards), "train", cache=tmp_path, limit_pairs=5)
    assert len(pairs) == 5 and pairs.siblings(4).tolist() == [4]
    expected = pairs.image_bytes(4)
    assert pickle.loads(pickle.dumps(pairs)).image_bytes(4) == expected


def test_few_files_stay_open(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbps.data.shards.OPEN_FILES", 2)
    pairs = ShardPairs(str(shards), "train", cache=shards)
    first = [pairs.image_bytes(index) for index in range(20)]
    assert [pairs.image_bytes(index) for index in reversed(range(20))] == first[::-1]
    assert len(pairs._open) == 2


def test_bad_output(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match="shards exists already; remove it or choose another folder"):
        write_shards(tmp_path / "folder", "cuhk-pedes", shards)
    with pytest.raises(ValueError, match="shard_mb is 0, expected at least 1"):
        write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "new", shard_mb=0)
    next((tmp_path / "folder/imgs/cam_1").iterdir()).unlink()
    with pytest.raises(ValueError, match=r'image cam_1/.*.jpg is not below .*; run "tbps data doctor --all"'):
        write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "shards"]


def test_bad_index(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(ValueError, match=r'holds no tbps-index.json; give a folder made by "tbps data shard"'):
        read_index(str(tmp_path), cache=tmp_path)
    index = json.loads((shards / INDEX_NAME).read_text())
    (shards / INDEX_NAME).write_text(json.dumps({**index, "format": 9}))
    with pytest.raises(ValueError, match="have index format 9, expected 5; create the shards again, or use the version of"):
        read_index(str(shards), cache=tmp_path)
    (shards / INDEX_NAME).write_text("{")
    with pytest.raises(ValueError, match="is no shard index"):
        read_index(str(shards), cache=tmp_path)


def test_shard_cut_short(shards: Path) -> None:
    pairs = ShardPairs(str(shards), "train", cache=shards)
    shard = shards / "train-0001.tar"
    full = shard.read_bytes()
    shard.write_bytes(full[:1000])
    message = r"shard train-0001.tar: 1000 bytes, expected \d+"
    with pytest.raises(ValueError, match=message + r'; run "tbps data verify" and create the shards again'):
        ShardPairs(str(shards), "train", cache=shards)
    # Cut after it was opened.
    with pytest.raises(
        ValueError, match=r"shard train-0001.tar: image cam_1/\S+.jpg at byte \d+ ends after \d+ of \d+ bytes"
    ):
        for index in range(20):
            pairs.image_bytes(index)
    assert len(verify_shards(shards)) == 1 and "train-0001.tar: 1000 bytes" in verify_shards(shards)[0]
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard train-0001.tar: missing in "):
        ShardPairs(str(shards), "train", cache=shards)


def test_changed_shards(shards: Path) -> None:
    def read_all() -> None:
        pairs = ShardPairs(str(shards), "train", cache=shards)
        for index in range(20):
            pairs.image_bytes(index)

    shard = shards / "train-0000.tar"
    full = shard.read_bytes()
    shard.write_bytes(full[:700] + bytes([full[700] ^ 1]) + full[701:])
    with pytest.raises(ValueError, match=r"image cam_0/0000_0.jpg at byte 512 has other content than its index says"):
        read_all()
    assert "shard train-0000.tar: sha256 is" in verify_shards(shards)[0]
    shard.write_bytes(full)
    read_all()
    assert verify_shards(shards) == []
    table = shards / "train-index.safetensors"
    full = table.read_bytes()
    for damaged in (b"?" + full[1:], full.replace(b"shoes", b"shoos", 1)):
        table.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^shard train-index.safetensors: sha256 is \w+, expected \w+; run "):
            read_all()
        assert "shard train-index.safetensors: sha256 is" in verify_shards(shards)[0]


@pytest.fixture
def server(shards: Path) -> Iterator[HostileServer]:
    with serve(shards) as server:
        yield server


def test_remote_shards(tmp_path: Path, server: HostileServer) -> None:
    cache = tmp_path / "cache"
    data = make_data(server.url, cache=str(cache))
    assert_same_pairs(open_pairs(make_data(tmp_path / "folder")), open_pairs(data))
    num_shards = len(read_index(str(tmp_path / "shards"), cache=cache)["train"].shards)
    tars = server.asked()
    assert len(tars) == len(set(tars)) == num_shards
    # The second time only the index is asked for.
    server.requests.clear()
    assert_same_pairs(open_pairs(make_data(tmp_path / "folder")), open_pairs(data))
    assert server.requests == [("/tbps-index.json", "")]
    assert not list(cache.rglob("*partial*"))


def _fetch_all(url: str, cache: Path) -> None:
    pairs = ShardPairs(url, "train", cache=cache)
    for index in range(len(pairs)):
        pairs.image_bytes(index)


def test_many_processes_download_once(tmp_path: Path, server: HostileServer) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fetch_all, args=(server.url, tmp_path / "cache")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    tars = server.asked()
    assert len(tars) == len(set(tars)) > 2


def test_s3_asks_the_aws_command_line(tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the `aws` program that serves the folder of shards: the real one needs an account."""
    program = tmp_path / "bin/aws"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1 $2 $5" = "s3 cp -" ] || exit 2\nexec cat "{shards}/${{4#s3://bucket/}}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert subprocess.run(["aws", "x"], check=False).returncode == 2
    pairs = open_pairs(make_data("s3://bucket", cache=str(tmp_path / "cache")))
    assert_same_pairs(open_pairs(make_data(tmp_path / "folder")), pairs)


def _growth_mb(root: Path, queue: multiprocessing.Queue) -> None:
    def own_mb() -> float:
        return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("RssAnon")) / 1000

    before, began = own_mb(), time.monotonic()
    pairs = ShardPairs(str(root), "train", cache=root)
    queue.put((own_mb() - before, time.monotonic() - began, pairs.caption(123_456)))


def test_a_start_keeps_no_caption_of_its_own(tmp_path: Path) -> None:
    """300,000 captions of 200 bytes: 60 MB."""
    num, numbers = 300_000, np.arange(300_000)
    start = np.arange(num + 1, dtype=np.int64)
    table = MemberTable(
        shard_I=np.zeros(num, np.int32),
        start_I=np.zeros(num, np.int64),
        size_I=np.zeros(num, np.int64),
        crc_I=np.zeros(num, np.uint32),
        image_path=StringColumn.of(start * 30, np.full(num * 30, ord("p"), np.uint8)),
        identity_I=numbers,
        image_N=numbers,
        caption_number_N=np.zeros(num, np.int64),
        caption=StringColumn.of(start * 200, np.full(num * 200, ord("c"), np.uint8)),
    )
    (tmp_path / "0.tar").touch()
    split = write_table(tmp_path, "train", table, (StoredFile.of(tmp_path / "0.tar", below=tmp_path),))
    write_index(tmp_path, "mals", {"train": split})
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_growth_mb, args=(tmp_path, queue))
    process.start()
    grown_mb, took_s, caption = queue.get(timeout=60)
    process.join()
    assert caption == "c" * 200
    # Identities, their index, and room to sort them: four arrays of 2.4 MB.
    assert grown_mb < 20 and took_s < 5
