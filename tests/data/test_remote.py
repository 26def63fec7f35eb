"""Servers that stall, break off, refuse or ask to wait; caches that rot; processes that wait for each other."""

from __future__ import annotations

import email.utils
import fcntl
import hashlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_server import HostileServer, cut, serve, stall, status, trickle, wrong_length
from tiny_folder import make_data, write_folder

from tbps.data import remote, turns
from tbps.data.opening import splits_of
from tbps.data.pairs import open_pairs
from tbps.data.shard_writer import write_shards
from tbps.data.shards import ShardPairs

CONTENT = os.urandom(400_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileServer]:
    """Serves one file, a.tar; pauses are short."""
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.01)
    (tmp_path / "served").mkdir()
    (tmp_path / "served/a.tar").write_bytes(CONTENT)
    with serve(tmp_path / "served") as server:
        yield server


def fetch(server: HostileServer, tmp_path: Path, *, patience_s: float = 10.0, query: str = "") -> bytes:
    url = f"{server.url}/a.tar{query}"
    path = remote.fetch(url, cache=tmp_path / "cache", sha256=DIGEST, num_bytes=len(CONTENT), patience_s=patience_s)
    return path.read_bytes()


def test_a_stall_is_a_failed_attempt_and_the_rest_is_fetched(
    server: HostileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers = [stall, cut]
    began = time.monotonic()
    assert fetch(server, tmp_path, patience_s=1.0) == CONTENT
    assert time.monotonic() - began < 5
    assert [asked for _, asked in server.asked()] == ["", "bytes=200000-", "bytes=300000-"]
    assert "a.tar: nothing came for 0.5 s; trying again in 0.0 s, for 1 s more" in caplog.text
    assert "the connection ended after" in caplog.text or "broke off" in caplog.text


def test_a_server_that_only_stalls_ends_in_a_sentence(server: HostileServer, tmp_path: Path) -> None:
    server.answers = [stall] * 9
    began = time.monotonic()
    with pytest.raises(
        ValueError, match=r"^http://\S+/a.tar: nothing came for 0.4 s; gave up after \d s without progress; check server"
    ):
        fetch(server, tmp_path, patience_s=0.8)
    assert time.monotonic() - began < 10
    # The same call later goes on where this one ended.
    server.answers.clear()
    server.requests.clear()
    assert fetch(server, tmp_path) == CONTENT
    assert server.asked()[0][1] == "bytes=200000-"


def test_a_byte_now_and_then_is_no_progress(server: HostileServer, tmp_path: Path) -> None:
    server.answers = [trickle] * 9
    with pytest.raises(ValueError, match=r"a.tar: only \d+ bytes came in 0.3 s; gave up after"):
        fetch(server, tmp_path, patience_s=0.6)


def test_other_content_is_fetched_anew_and_refused(server: HostileServer, tmp_path: Path) -> None:
    server.answers = [wrong_length]
    assert fetch(server, tmp_path) == CONTENT
    (tmp_path / "served/b.tar").write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(ValueError, match=r"b.tar: got sha256 \w{12}, expected \w{12}, 3 times; the file is another one"):
        remote.fetch(f"{server.url}/b.tar", cache=tmp_path / "other", sha256=DIGEST, num_bytes=len(CONTENT))
    assert not list((tmp_path / "other").rglob("*.partial"))


def test_a_rest_that_does_not_fit_is_thrown_away(server: HostileServer, tmp_path: Path) -> None:
    partial = tmp_path / "cache" / DIGEST[:2] / f"{DIGEST}.partial"
    partial.parent.mkdir(parents=True)
    for rest in (b"x" * 10, b"x" * (len(CONTENT) + 5)):
        partial.write_bytes(rest)
        assert fetch(server, tmp_path) == CONTENT
        (partial.with_suffix("")).unlink()


@pytest.mark.parametrize("how", ["seconds", "date"])
def test_a_busy_server_is_asked_when_it_says(server: HostileServer, tmp_path: Path, how: str) -> None:
    when = "1" if how == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    server.answers = [status(503, Retry_After=when), status(429)]
    began = time.monotonic()
    assert fetch(server, tmp_path) == CONTENT
    assert 0.9 < time.monotonic() - began < 5


def test_a_busy_server_is_given_up(server: HostileServer, tmp_path: Path) -> None:
    server.answers = [status(503)] * 99
    with pytest.raises(
        ValueError,
        match=r"^http://127.0.0.1:\d+/a.tar: the server answers 503 Service Unavailable; gave up after \d+ s without"
        r" progress; check server, network and proxy, then run the same command again; --loop.timeout-s sets the patience$",
    ):
        fetch(server, tmp_path, patience_s=0.5)
    assert 3 < len(server.requests) < 12
    server.answers = [status(503, Retry_After="3600")]
    began = time.monotonic()
    with pytest.raises(ValueError, match="503 Service Unavailable, retry after 3600 s; gave up after 0 s without progress"):
        fetch(server, tmp_path)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(("number", "words"), [(403, "403 Forbidden"), (404, "404 Not Found"), (410, "410 Gone")])
def test_a_refusal_is_not_repeated_and_shows_no_secret(
    server: HostileServer, tmp_path: Path, number: int, words: str
) -> None:
    server.answers = [status(number)]
    with pytest.raises(
        ValueError, match=rf"/a.tar\?\.\.\.: the server answers {words}; check the address and your credentials$"
    ):
        fetch(server, tmp_path, query="?sig=secret")
    assert server.requests == [("/a.tar?sig=secret", "")]


def test_a_full_disk_is_no_fault_of_the_server(server: HostileServer, tmp_path: Path) -> None:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    try:
        with pytest.raises(
            ValueError, match=r"partial cannot be written \(File too large\); make room, or set --data.cache"
        ):
            fetch(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert len(server.requests) == 1
    assert fetch(server, tmp_path) == CONTENT


def test_what_is_no_url_is_shown_as_it_is() -> None:
    assert remote.shown("/data/a?b@c") == "/data/a?b@c" and remote.shown("s3://bucket/a?b") == "s3://bucket/a?b"
    assert remote.shown("http://host:1/a") == "http://host:1/a"


def test_nobody_answers_and_a_proxy_is_asked(server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    url = f"http://127.0.0.1:{port}/x"
    with pytest.raises(ValueError, match=r"/x: cannot be reached or broke off \(Connection refused\); gave up after"):
        remote.read_text(url, cache=tmp_path, patience_s=0.05)
    assert list(tmp_path.glob("*partial*")) == []
    monkeypatch.setenv("http_proxy", server.url)  # a proxy is asked for whole URLs
    monkeypatch.delenv("no_proxy", raising=False)
    server.answers, server.spoiled = [status(407)], "/shards"
    with pytest.raises(ValueError, match="the server answers 407 Proxy Authentication Required"):
        remote.read_text("http://nowhere.invalid/shards", cache=tmp_path)
    assert server.requests == [("http://nowhere.invalid/shards", "")]


def test_redirects_are_followed_within_reason(server: HostileServer, tmp_path: Path) -> None:
    server.answers = [status(302, Location="/a.tar?again")]
    assert fetch(server, tmp_path) == CONTENT
    server.answers = [status(302, Location="file:///etc/passwd")]
    with pytest.raises(ValueError, match="cannot be asked for"):
        remote.read_text(f"{server.url}/b.tar", cache=tmp_path)


def test_a_signed_root(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "cuhk-pedes")
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "shards")
    with serve(tmp_path) as server:
        data = make_data(f"{server.url}/shards/?sig=a%2Fb&x=1", cache=str(tmp_path / "cache"))
        assert open_pairs(data).image_bytes(0) == open_pairs(make_data(tmp_path / "folder")).image_bytes(0)
        assert splits_of(data) == ("train", "test")
        assert {path.partition("?")[2] for path, _ in server.requests} == {"sig=a%2Fb&x=1"}
        assert server.asked(".json")[0][0].startswith("/shards/tbps-index.json?")


def test_a_waiter_says_for_whom_and_gives_up(
    server: HostileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(turns, "FIRST_WORD_S", 0.1)
    lock = tmp_path / "cache" / DIGEST[:2] / f"{DIGEST}.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        held.write("process 12 on there")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"^process 12 on there fetches \S+a.tar, but nothing came of it for \d s; end"):
            fetch(server, tmp_path, patience_s=0.3)
        assert (
            "waiting for process 12 on there, which fetches http://127" in caplog.text and "(0 bytes so far)" in caplog.text
        )
        threading.Timer(0.5, lambda: fcntl.flock(held, fcntl.LOCK_UN)).start()
        assert fetch(server, tmp_path) == CONTENT


@pytest.mark.parametrize("damage", ["cut short", "one bit", "nothing left"])
def test_a_damaged_shard_in_the_cache_is_fetched_once_more(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.01)
    write_folder(tmp_path / "folder", "cuhk-pedes")
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "shards")
    with serve(tmp_path / "shards") as server:
        first, other = (ShardPairs(server.url, "train", cache=tmp_path / "cache") for _ in range(2))
        expected = [first.image_bytes(pair) for pair in range(len(first))]
        assert other.image_bytes(0) == expected[0]  # has the file open
        cached = max((tmp_path / "cache").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
        full = cached.read_bytes()
        with cached.open("r+b") as file:
            if damage == "one bit":
                file.seek(full.index(expected[4]) + 100)
                file.write(bytes([expected[4][100] ^ 1]))
            else:
                file.truncate(len(full) // 3 if damage == "cut short" else 0)
        server.requests.clear()
        for pairs in (first, other, ShardPairs(server.url, "train", cache=tmp_path / "cache")):
            assert [pairs.image_bytes(pair) for pair in range(len(pairs))] == expected
        assert len(server.asked()) == 1
        assert caplog.text.count("was damaged: fetching it once more") == 1
        # What comes is wrong again: one sentence, no endless repetition.
        shard = tmp_path / "shards/train-0000.tar"
        shard.write_bytes(full[:2000] + b"?" * (len(full) - 2000))
        cached.write_bytes(shard.read_bytes())
        with pytest.raises(ValueError, match=r"train-0000.tar: got sha256 \w{12}, expected \w{12}, 3 times"):
            [first.image_bytes(pair) for pair in range(len(first))]


def test_a_damaged_table_in_the_cache_is_fetched_once_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path / "folder", "cuhk-pedes")
    write_shards(tmp_path / "folder", "cuhk-pedes", tmp_path / "shards")
    with serve(tmp_path / "shards") as server:
        expected = ShardPairs(server.url, "train", cache=tmp_path / "cache").caption(3)
        table = (tmp_path / "shards/train-index.safetensors").read_bytes()
        cached = tmp_path / "cache" / hashlib.sha256(table).hexdigest()[:2] / hashlib.sha256(table).hexdigest()
        cached.write_bytes(table.replace(expected.encode(), b"?" * len(expected)))
        assert ShardPairs(server.url, "train", cache=tmp_path / "cache").caption(3) == expected
        assert len(server.asked("index.safetensors")) == 2
    assert "train-index.safetensors in " in caplog.text and "was damaged: fetching it once more" in caplog.text


def test_aws_that_stalls_or_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the program: the real one needs an account."""
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.01)
    program = tmp_path / "bin/aws"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    def become(script: str) -> None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def read(**words: float) -> str:
        return remote.read_text("s3://bucket/index", cache=tmp_path / "cache", **words)

    with pytest.raises(ValueError, match="s3://bucket/index: needs the program aws, which is not installed"):
        read()
    become("printf half; exec sleep 60")
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"index: nothing came for 0.2 s; gave up after"):
        read(patience_s=0.4)
    assert time.monotonic() - began < 5
    become("echo 'fatal error: An error occurred (404) when calling the HeadObject operation: Not Found' >&2; exit 1")
    with pytest.raises(ValueError, match=r"index: aws says: fatal error: .*\(404\).*; check the address and your creden"):
        read()
    become(f'[ -e {tmp_path}/once ] && exec printf text; touch {tmp_path}/once; echo "connection reset" >&2; exit 1')
    assert read() == "text"
