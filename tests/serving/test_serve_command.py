"""`tbps serve` as a process: many clients at once, signals while it answers, a restart under load."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from served import Served, serving
from small_world import REPOSITORY

pytestmark = pytest.mark.xdist_group("serving")  # trained once
CLIENTS = 8
LOAD_S = float(os.environ.get("TBPS_LOAD_S", "2"))
SENTENCES = ("a+woman+in+a+red+coat", "a+man+with+a+black+backpack", "blue+trousers&minus=a+hat", "white+shoes&camera=cam_0")


def status_of(port: int, address: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", address)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def wait_until(holds: Callable[[], bool]) -> None:
    """At most ten seconds."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def load(port: int, seconds: float, *, again: bool = False) -> tuple[list[float], list[object]]:
    """Seconds of each search of eight clients, each of which asks when it has its answer and three thumbnails; failures.

    again: what finds no server waits and asks again, as the reader of a page does.
    """
    took, failed = list[float](), list[object]()
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        turn = number
        while time.monotonic() < end:
            started = time.perf_counter()
            try:
                status = status_of(port, f"/api/search?q={SENTENCES[turn % 4]}")
                took.append(time.perf_counter() - started)
                statuses = [status, *(status_of(port, f"/thumbnail/{(turn + row) % 50}") for row in range(3))]
                failed.extend(status for status in statuses if status != 200)
            except OSError as error:
                if not again:
                    failed.append(error)
                time.sleep(0.05)
            turn += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, failed


def test_eight_clients_are_served(index: Path, tmp_path: Path) -> None:
    with serving(index, tmp_path / "said", "--log", str(tmp_path / "log")) as served:
        took, failed = load(served.port, LOAD_S)
        assert not failed and len(took) > CLIENTS
        p95 = sorted(took)[int(0.95 * len(took))]
        print(f"{len(took)} searches of {CLIENTS} clients in {LOAD_S:.0f} s, p95 {1000 * p95:.0f} ms")
        assert p95 < 2
        # A line is written when its answer is on its way.
        wait_until(lambda: (tmp_path / "log").read_text().count("/api/search") == len(took))


def test_a_restart_under_load_loses_nothing(index: Path, tmp_path: Path) -> None:
    results: list[tuple[list[float], list[object]]] = []
    with serving(index, tmp_path / "first") as first:
        port = first.port
        clients = threading.Thread(target=lambda: results.append(load(port, 3.0, again=True)))
        clients.start()
        time.sleep(0.7)
        os.kill(first.process.pid, signal.SIGTERM)
        first.process.wait(10)
        assert first.process.returncode == 143
        with serving(index, tmp_path / "second", port=port):
            clients.join()
        lines = (tmp_path / "second").read_text()
    (took, failed) = results[0]
    assert not failed and len(took) > CLIENTS and "/api/search" in lines


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("busy", [False, True])
def test_a_signal_ends_it_at_once_and_well(
    index: Path, tmp_path: Path, number: int, status: int, busy: bool, slow_rerank: Callable[[Served], None]
) -> None:
    with serving(index, tmp_path / "said") as served:
        assert status_of(served.port, "/api/about") == 200
        idle = socket.create_connection(("127.0.0.1", served.port))  # a client that says nothing must not hold it
        if busy:
            slow_rerank(served)
        started = time.monotonic()
        os.kill(served.process.pid, number)
        served.process.wait(10)
        idle.close()
        assert served.process.returncode == status and time.monotonic() - started < 3
        said = served.said.read_text()
    assert said.endswith("tbps: stopped as asked\n") and "Traceback" not in said


@pytest.fixture
def slow_rerank() -> Callable[[Served], None]:
    """Begins many searches at once that take long together, and comes back when they are under way."""

    def begin(served: Served) -> None:
        address = "/api/search?q=" + "a+red+coat+" * 20 + "&rerank=128" + "".join(f"&plus=word+{n}" for n in range(60))
        for _ in range(20):
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
            connection.request("GET", address)
            waiting.append(connection)
        time.sleep(0.3)

    waiting: list[http.client.HTTPConnection] = []
    return begin


def test_paths_as_they_come_lead_nowhere(index: Path, tmp_path: Path) -> None:
    with serving(index, tmp_path / "said") as served:
        for way in (
            "/../../../../etc/passwd",
            "//etc/passwd",
            "/picture/../../../etc/passwd",
            "/thumbnail/0/../../x",
            "/page.js/..",
        ):
            assert status_of(served.port, way) == 404, way
        assert status_of(served.port, "/picture/0") == status_of(served.port, "/") == 200
        with socket.create_connection(("127.0.0.1", served.port)) as rude:
            rude.sendall(b"GET /\xff\x00 HTTP/1.1\r\n\r\n\x1b[31m")
            assert rude.recv(100).startswith(b"HTTP/1.1 400")
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as slow:
            slow.sendall(b"GET /api/search?q=" + b"trousers+" * 8000)
            time.sleep(0.1)
            slow.sendall(b"trousers+" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert slow.recv(100).startswith(b"HTTP/1.1 200"), "a sentence of 10,000 words that comes in pieces"
        assert "Traceback" not in served.said.read_text()


def test_every_command_of_the_page(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "tbps/serving/README.md").read_text(encoding="utf-8")
    assert "`tbps/serving/README.md`" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^ {4}tbps serve photos.index(.*)$", page, flags=re.MULTILINE)
    assert len(commands) == 3
    for number, options in enumerate(commands):
        words = shlex.split(options.replace("--port 8765", ""))
        with serving(index, tmp_path / str(number), *words) as served:
            said = served.address.replace(f"//{socket.gethostname()}:", "//127.0.0.1:")
            assert status_of(served.port, "/" + said.split("/", 3)[3]) == (303 if "--host" in words else 200)
            if "--log" in words:
                wait_until(lambda: "GET /?token=... 303" in (tmp_path / "access.log").read_text())
    answer = re.search(r"`(/api/search\?\S+)`", page)
    with serving(index, tmp_path / "said") as served:
        assert answer is not None and status_of(served.port, answer[1]) == 200


def test_a_token_is_made_printed_and_asked_for(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(index, tmp_path / "said", "--token") as served:
        assert "?token=" in served.address and status_of(served.port, "/api/about") == 401
        assert status_of(served.port, f"/?{served.address.partition('?')[2]}") == 303
    monkeypatch.setenv("TBPS_SERVE_TOKEN", "of-the-environment")
    with serving(index, tmp_path / "more") as served:
        assert served.address.endswith("?token=of-the-environment")
