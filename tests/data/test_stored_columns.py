"""Tables of any length: opened without reading them, checked as they are read, and kept by nobody."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hostile_server import serve

from tbps.data.column import StringColumn, write_columns
from tbps.data.sample_order import BatchOrder, PairOrder
from tbps.data.shard_index import MemberTable, StoredFile, write_index, write_table
from tbps.data.shards import ShardPairs
from tbps.data.stored_columns import PIECE_BYTES, StoredBytes, StoredColumn, StoredStrings, open_columns, piece_crcs


def table_of(num_images: int) -> MemberTable:
    """Two captions an image, identities of three images each that lie apart."""
    image_N = np.repeat(np.arange(num_images), 2)
    identity_I = np.arange(num_images) % (num_images // 3)
    return MemberTable(
        shard_I=np.zeros(num_images, np.int32),
        start_I=np.zeros(num_images, np.int64),
        size_I=np.zeros(num_images, np.int64),
        crc_I=np.zeros(num_images, np.uint32),
        image_path=StringColumn(f"cam/{number}.jpg" for number in range(num_images)),
        identity_I=identity_I,
        image_N=image_N,
        caption_number_N=np.arange(2 * num_images) % 2,
        caption=StringColumn(f"caption {number} of \u00e9" for number in range(2 * num_images)),
        attribute_IA=(np.arange(num_images * 3).reshape(-1, 3) % 2).astype(np.int8),
    )


def write(folder: Path, table: MemberTable) -> Path:
    (folder / "0.tar").touch()
    split = write_table(folder, "train", table, (StoredFile.of(folder / "0.tar", below=folder),))
    write_index(folder, "mals", {"train": split})
    return folder / "train-index.safetensors"


def open_table(path: Path) -> dict[str, StoredColumn | StoredStrings]:
    def damage(first: int, last: int) -> str:
        return f"bytes {first} to {last}"

    return open_columns(StoredBytes(path, crc_P=piece_crcs(path), damage=damage))


def test_columns_are_what_was_written(tmp_path: Path) -> None:
    numbers = np.arange(20_000).reshape(-1, 2).astype(np.int8)
    texts = ["", "a", "\u00e9t\u00e9", "\ud800"] * 5_000
    write_columns(tmp_path / "t", {"number_IA": numbers, "text": StringColumn(texts), "single": np.array([7], np.uint32)})
    for columns in (open_table(tmp_path / "t"), pickle.loads(pickle.dumps(open_columns_of(tmp_path / "t")))):
        number_IA, text = columns["number_IA"], columns["text"]
        assert isinstance(number_IA, StoredColumn) and isinstance(text, StoredStrings)
        assert np.array_equal(np.concatenate(list(number_IA.blocks(8_000))), numbers[:8_000])
        assert number_IA[9_999].tolist() == numbers[9_999].tolist() and number_IA.rows(0, 1).dtype == np.int8
        assert list(text) == texts and columns["single"][0] == 7 and len(text) == len(texts)
        with pytest.raises(IndexError, match="row 10000 of 10000"):
            number_IA[10_000]
        with pytest.raises(IndexError, match="string -1 of 20000"):
            text[-1]


def open_columns_of(path: Path) -> dict[str, StoredColumn | StoredStrings]:
    return open_columns(StoredBytes(path, crc_P=None, damage=_words))


def _words(first: int, last: int) -> str:
    return f"bytes {first} to {last}"


def test_a_damaged_piece_is_found_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tbps.data.shards.CHECKED_AT_ONCE_BYTES", 0)
    path = write(tmp_path, table_of(30_000))
    content = bytearray(path.read_bytes())
    place = content.index(b"caption 41234 of")
    content[place] ^= 1
    path.write_bytes(content)
    pairs = ShardPairs(str(tmp_path), "train", cache=tmp_path)
    assert pairs.caption(0) == "caption 0 of \u00e9" and pairs.key(59_999) == "cam/29999.jpg#1"
    first = place // PIECE_BYTES * PIECE_BYTES
    message = (
        rf"^shard train-index.safetensors: bytes {first} to \d+ have other content than the index says; run \"tbps data"
    )
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            pairs.caption(41_234)
    (tmp_path / "train-index.crc32").write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"shard train-index.crc32: 4 bytes, expected \d+; run"):
        ShardPairs(str(tmp_path), "train", cache=tmp_path)


def test_a_damaged_copy_of_a_remote_table_is_fetched_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tbps.data.shards.CHECKED_AT_ONCE_BYTES", 0)
    (tmp_path / "served").mkdir()
    table = write(tmp_path / "served", table_of(30))
    with serve(tmp_path / "served") as server:
        assert ShardPairs(server.url, "train", cache=tmp_path / "cache").caption(7).startswith("caption 7")
        digest = hashlib.sha256(table.read_bytes()).hexdigest()
        cached = tmp_path / "cache" / digest[:2] / digest
        cached.write_bytes(cached.read_bytes().replace(b"caption 7 ", b"caption 8 "))
        with pytest.raises(ValueError, match=r"bytes 0 to 65536 have other content .* is removed: the same command fetches"):
            ShardPairs(server.url, "train", cache=tmp_path / "cache").caption(7)
        assert ShardPairs(server.url, "train", cache=tmp_path / "cache").caption(7).startswith("caption 7")


@pytest.mark.parametrize("limit", [0, 101])
def test_pairs_of_an_identity_are_stored(tmp_path: Path, limit: int) -> None:
    table = table_of(90)
    write(tmp_path, table)
    pairs = ShardPairs(str(tmp_path), "train", cache=tmp_path, limit_pairs=limit)
    num_pairs = limit or 180
    expected_N = (np.arange(180) // 2 % 30)[:num_pairs]
    assert len(pairs) == num_pairs and pairs.num_identities == 30
    for index in range(num_pairs):
        assert pairs.identity(index) == expected_N[index] and pairs.image(index) == index // 2
        assert pairs.siblings(index).tolist() == np.flatnonzero(expected_N == expected_N[index]).tolist()
    assert pairs.identity_N.tolist() == expected_N.tolist()
    with pytest.raises(IndexError, match=f"pair {num_pairs} of {num_pairs}"):
        pairs.identity(num_pairs)
    # An index of before: the same, found at the start.
    content = json.loads((tmp_path / "tbps-index.json").read_text())
    del content["splits"]["train"]["by_identity"], content["splits"]["train"]["pieces"]
    (tmp_path / "tbps-index.json").write_text(json.dumps({**content, "format": 4}))
    older = ShardPairs(str(tmp_path), "train", cache=tmp_path, limit_pairs=limit)
    assert all(older.siblings(index).tolist() == pairs.siblings(index).tolist() for index in range(num_pairs))


NUM_PAIRS = 100_000_000


def write_hundred_million(folder: Path) -> None:
    """An index of 10^8 pairs as a file with holes: every number in it is 0, every string empty."""
    sizes = {"I64": 8, "U32": 4, "I32": 4, "U8": 1}
    columns = {
        "shard_I": "I32",
        "crc_I": "U32",
        **dict.fromkeys(("start_I", "size_I", "identity_I", "image_N", "caption_number_N"), "I64"),
        **dict.fromkeys(("caption.start", "image_path.start"), "I64"),
        **dict.fromkeys(("caption.utf8", "image_path.utf8"), "U8"),
    }
    header, end = {}, 0
    for name, kind in columns.items():
        rows = 50 * NUM_PAIRS if name == "caption.utf8" else NUM_PAIRS + name.endswith(".start")
        header[name] = {"dtype": kind, "shape": [rows], "data_offsets": [end, end + rows * sizes[kind]]}
        end += rows * sizes[kind]
    text = json.dumps(header).encode()
    path = folder / "train-index.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    num_bytes = path.stat().st_size
    crc_P = np.full(-(-num_bytes // PIECE_BYTES), zlib.crc32(bytes(PIECE_BYTES)), dtype="<u4")
    with path.open("rb") as file:
        crc_P[0] = zlib.crc32(file.read(PIECE_BYTES))
    crc_P.tofile(folder / "train-index.crc32")
    (folder / "0.tar").touch()
    split = {
        "index": {"name": path.name, "num_bytes": num_bytes, "sha256": "0" * 64},
        "shards": [vars_of(StoredFile.of(folder / "0.tar", below=folder))],
        "num_pairs": NUM_PAIRS,
        "num_images": NUM_PAIRS,
        "num_identities": 1,
        "pieces": vars_of(StoredFile.of(folder / "train-index.crc32", below=folder)),
        "by_identity": True,
    }
    content = {"format": 5, "benchmark": "mals", "splits": {"train": split}, "chunks": []}
    (folder / "tbps-index.json").write_text(json.dumps(content))


def vars_of(file: StoredFile) -> dict[str, object]:
    return {"name": file.name, "num_bytes": file.num_bytes, "sha256": file.sha256}


def _start(root: Path, queue: multiprocessing.Queue) -> None:
    """Open the index, then read what a worker reads of many batches."""

    def resident_mb() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000

    before, began = resident_mb(), time.monotonic()
    pairs = ShardPairs(str(root), "train", cache=root)
    order = BatchOrder(PairOrder(len(pairs), seed=1), batch_pairs=4096, group_pairs=8)
    first = order.indices(0)
    took_s = time.monotonic() - began
    assert pairs.num_identities == 1 and "identity_N" not in vars(pairs)
    for _, pair in first:
        assert pairs.key(pair) == "#0" and pairs.identity(pair) == 0 and pairs.caption(pair) == ""
    queue.put((took_s, resident_mb() - before))


def test_a_start_at_a_hundred_million_pairs(tmp_path: Path) -> None:
    write_hundred_million(tmp_path)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_start, args=(tmp_path, queue))
    process.start()
    took_s, grown_mb = queue.get(timeout=120)
    process.join()
    assert took_s < 5 and grown_mb < 300
