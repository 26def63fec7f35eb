"""A cache of fetched shards that is smaller than they are; and processes that are killed while they fetch."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import multiprocessing
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile_server import HostileServer, another_part, cut, cut_without_length, longer, serve, slow, status, wrong_length
from tiny_folder import make_data, write_folder

from tbps.data import cache_room, remote, transfer
from tbps.data.cache_room import CacheRoom
from tbps.data.pairs import PairSource, open_pairs
from tbps.data.shard_index import read_index
from tbps.data.shard_writer import write_shards
from tbps.data.shards import ShardPairs

NUM_PAIRS = 200


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileServer]:
    """Serves about twenty shards of some 20 KB."""
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(cache_room, "POLL_S", 0.01)
    monkeypatch.setattr("tbps.data.shard_writer.BYTES_PER_MB", 1 << 13)
    write_folder(tmp_path / "folder", "mals", num_identities=100)
    write_shards(tmp_path / "folder", "mals", tmp_path / "shards", shard_mb=1)
    with serve(tmp_path / "shards") as server:
        yield server


def shard_sizes(server: HostileServer, tmp_path: Path) -> list[int]:
    return [shard.num_bytes for shard in read_index(server.url, cache=tmp_path)["train"].shards]


def whole_names(cache: Path) -> set[str]:
    """Names of files that stand for whole ones."""
    return {path.name for path in cache.glob("??/*") if re.fullmatch(r"[0-9a-f]{64}", path.name)}


def began_sizes(cache: Path) -> list[int]:
    """Bytes of the downloads that have some."""
    sizes = [path.stat().st_size for path in cache.glob("??/*.partial") if path.exists()]
    return [size for size in sizes if size]


def bytes_of_shards(cache: Path) -> int:
    """What lies in the cache but for tables, begun files too, while nothing is evicted."""
    total = 0
    with (cache / "room.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in cache.glob("??/*"):
            try:
                if path.suffix in ("", ".partial") and path.open("rb").read(9)[8:] != b"{":
                    total += path.stat().st_size
            except FileNotFoundError:  # whole by now
                continue
    return total


def read_shuffled(url: str, cache: Path, seed: int, wrong: multiprocessing.Queue) -> None:
    """What a loader worker does, and a comparison with the folder."""
    pairs, folder = open_bounded(url, cache), open_pairs(make_data(cache.parent / "folder", "mals"))
    for pair in np.random.default_rng(seed).permutation(NUM_PAIRS).tolist()[:80]:
        if pairs.image_bytes(pair) != folder.image_bytes(pair):
            wrong.put(pair)


def open_bounded(url: str, cache: Path) -> PairSource:
    return open_pairs(make_data(url, "mals", cache=str(cache), cache_mb=3))


def test_a_small_cache_evicts_and_goes_on(
    tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sizes, cache = shard_sizes(server, tmp_path), tmp_path / "cache"
    assert len(sizes) > 12
    monkeypatch.setattr("tbps.data.shards.BYTES_PER_MB", max(sizes))  # three shards
    context = multiprocessing.get_context("fork")
    wrong = context.Queue()
    processes = [context.Process(target=read_shuffled, args=(server.url, cache, seed, wrong)) for seed in range(3)]
    for process in processes:
        process.start()
    most = 0
    while any(process.is_alive() for process in processes):
        time.sleep(0.005)
        most = max(most, bytes_of_shards(cache) if cache.exists() else 0)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3 and wrong.empty()
    assert min(sizes) < most <= 3 * max(sizes)
    assert len(server.asked()) > 2 * len(sizes), "shards were fetched again"
    # The table stays, and nothing is left of the downloads.
    tables = [path for path in cache.glob("??/*") if path.read_bytes()[8:9] == b"{"]
    assert len(tables) == 1 and not list(cache.glob("??/*.p*"))
    with caplog.at_level(logging.WARNING):
        open_bounded(server.url, cache)
    assert "shards will be fetched several times in an epoch, as the pairs of one window" in caplog.text


def test_the_shards_read_longest_ago_make_way(
    tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, cache = shard_sizes(server, tmp_path), tmp_path / "cache"
    monkeypatch.setattr("tbps.data.shards.BYTES_PER_MB", max(sizes))
    pairs = open_bounded(server.url, cache)
    first_of = [pair for pair in range(NUM_PAIRS) if pair == 0 or shard_of(pairs, pair) != shard_of(pairs, pair - 1)]
    for shard in (0, 1, 2, 0, 3):
        pairs.image_bytes(first_of[shard])
        time.sleep(0.02)
    server.requests.clear()
    pairs.image_bytes(first_of[0])
    assert server.asked() == [], "it was read after shard 1"
    pairs.image_bytes(first_of[1])
    assert server.asked() == [("/train-0001.tar", "")]


def shard_of(pairs: PairSource, pair: int) -> int:
    assert isinstance(pairs, ShardPairs)
    return int(pairs._table.shard_I[pairs.image(pair)])


@pytest.mark.parametrize("bounded", [False, True])
def test_nothing_half_is_read_after_a_kill(
    tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch, bounded: bool
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr("tbps.data.shards.BYTES_PER_MB", max(shard_sizes(server, tmp_path)))
    data = make_data(server.url, "mals", cache=str(cache), cache_mb=3 * bounded)
    expected = open_pairs(make_data(tmp_path / "folder", "mals")).image_bytes(0)
    process = multiprocessing.get_context("fork").Process(target=lambda: open_pairs(data).image_bytes(0))
    server.answers = [slow]
    process.start()
    deadline = time.monotonic() + 20
    while not (whole_names(cache) and began_sizes(cache)) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    (came,), names = began_sizes(cache), whole_names(cache)
    assert len(names) == 1  # of the table
    server.requests.clear()
    assert open_pairs(data).image_bytes(0) == expected
    assert [part for _, part in server.asked()] == [f"bytes={came}-"]
    assert len(whole_names(cache) - names) == 1 and not list(cache.glob("??/*.partial")) + list(cache.glob("??/*.planned"))


def test_what_a_killed_process_left_makes_way(tmp_path: Path) -> None:
    room = CacheRoom(tmp_path, most_bytes=1000)
    for number, ending in enumerate(("", ".partial", "")):
        path = tmp_path / "ab" / f"{number:064x}{ending}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 300)
        os.utime(path, (number, number))
    room.make(tmp_path / "ab" / ("f" * 64), 500, patience_s=1.0)
    assert sorted(path.name[-9:] for path in tmp_path.glob("ab/*")) == ["000000002", f"{'f' * 3}.planned"[-9:]]


def test_a_download_of_another_process_keeps_its_room(tmp_path: Path) -> None:
    room, other = CacheRoom(tmp_path, most_bytes=1000), tmp_path / "ab" / ("0" * 64)
    other.parent.mkdir()
    other.with_suffix(".partial").write_bytes(b"x" * 10)
    other.with_suffix(".planned").write_text("700")
    with other.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"has no room for a shard of 0.0 MB: .* have not grown for \d s; set --"):
            room.make(tmp_path / "ab" / ("1" * 64), 400, patience_s=0.2)
        room.make(tmp_path / "ab" / ("2" * 64), 300, patience_s=0.2)
    assert other.with_suffix(".partial").exists()


def test_a_cache_that_is_too_small_is_refused(
    tmp_path: Path, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tbps.data.shards.BYTES_PER_MB", 1000)
    message = r"^shard train-00\d\d.tar: 0.0 MB do not fit into the 0.0 MB for shards in \S+; set --data.cache-mb higher, or"
    with pytest.raises(ValueError, match=message):
        open_bounded(server.url, tmp_path / "cache")
    assert server.asked() == []


HOSTILE = {
    "stops half way": ([cut], 2),
    "500": ([status(500)], 2),
    "429": ([status(429, Retry_After="1")], 2),
    "redirect": ([status(302, Location="/train-0000.tar?again")], 2),
    "wrong length": ([wrong_length], 2),
    "no length, cut": ([cut_without_length], 2),
    "longer": ([longer], 2),
    "another part": ([cut, another_part], 2),
    "20 kB/s": ([slow], 1),
}
"""What a server does, and how often it is asked until the shard is there."""


@pytest.mark.parametrize("how", HOSTILE)
def test_the_right_shard_comes_in_the_end(tmp_path: Path, server: HostileServer, how: str) -> None:
    answers, times = HOSTILE[how]
    server.answers = list(answers)
    data = make_data(server.url, "mals", cache=str(tmp_path / "cache"), cache_mb=1)
    began = time.monotonic()
    expected = open_pairs(make_data(tmp_path / "folder", "mals")).image_bytes(0)
    assert open_pairs(data).image_bytes(0) == expected
    assert not server.answers and len(server.asked()) == times and time.monotonic() - began < 15
    if how == "no length, cut":
        assert server.asked()[1][1].startswith("bytes=")


def test_of_a_longer_file_no_more_is_taken(server: HostileServer, tmp_path: Path) -> None:
    content = (tmp_path / "shards/train-0000.tar").read_bytes()
    server.answers = [longer] * 9
    with pytest.raises(ValueError, match=rf"got \d+ bytes, expected {len(content)}, 3 times; the file is another one"):
        remote.fetch(
            f"{server.url}/train-0000.tar",
            cache=tmp_path / "cache",
            sha256=hashlib.sha256(content).hexdigest(),
            num_bytes=len(content),
        )


def test_the_rest_of_a_longer_file_is_not_waited_for(tmp_path: Path) -> None:
    pieces = iter([b"x" * 10] * 100)
    with (tmp_path / "file").open("wb") as file:
        assert not transfer._copy(pieces, file, idle_s=1.0, num_bytes=15, name="")
    assert len(list(pieces)) == 98


def test_a_slow_download_is_told(
    server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transfer, "WORD_EVERY_S", 0.3)
    server.answers = [slow]
    with caplog.at_level(logging.INFO):
        ShardPairs(server.url, "train", cache=tmp_path / "cache").image_bytes(0)
    assert re.search(r"fetching http://\S+/train-0000.tar: 0\.0 of 0\.0 MB so far, [12]\d kB/s", caplog.text)
