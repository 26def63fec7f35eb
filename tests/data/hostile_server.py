"""A real HTTP server on this machine that serves a folder badly: it stalls, cuts, refuses, or asks to come back later."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Answer = Callable[["Handler"], None]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files; ranges too. The server's `answers` come first, one a request for a shard."""

    server: HostileServer  # type: ignore[assignment]

    def do_GET(self) -> None:
        """One request."""
        self.server.requests.append((self.path, self.headers.get("Range", "")))
        path = self.path.partition("?")[0]
        if self.server.answers and path.endswith(self.server.spoiled):
            self.server.answers.pop(0)(self)
            return
        self.send_file()

    def content(self) -> bytes:
        """The whole file."""
        return Path(self.translate_path(self.path)).read_bytes()

    def send_file(self, *, cut: int | None = None, length: int | None = None) -> None:
        """What a good server sends; `cut` bytes of it, or with another Content-Length."""
        if not Path(self.translate_path(self.path)).is_file():
            self.send_error(404)
            return
        content = self.content()
        start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(length if length is not None else len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : None if cut is None else start + cut])
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


class HostileServer(http.server.ThreadingHTTPServer):
    """`answers` are used up, one for each request of a path that ends in `spoiled`."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.answers: list[Answer] = []
        self.spoiled = ".tar"
        self.requests: list[tuple[str, str]] = []
        """(path, Range) of each."""
        self.leave = threading.Event()

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self, ending: str = ".tar") -> list[tuple[str, str]]:
        """Requests of such paths."""
        return [request for request in self.requests if request[0].partition("?")[0].endswith(ending)]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is no error here."""


@contextmanager
def serve(folder: Path) -> Iterator[HostileServer]:
    """Serve `folder` while entered."""
    with HostileServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.leave.set()
            server.shutdown()
            thread.join()


def stall(handler: Handler) -> None:
    """Half of the file, or no more of it, then nothing until the test is over."""
    handler.send_file(cut=0 if "Range" in handler.headers else len(handler.content()) // 2)
    handler.server.leave.wait(60)


def trickle(handler: Handler) -> None:
    """A byte now and then."""
    handler.send_file(cut=1)
    while not handler.server.leave.wait(0.05):
        handler.wfile.write(b"x")


def cut(handler: Handler) -> None:
    """A quarter of the file, then the connection ends."""
    handler.send_file(cut=len(handler.content()) // 4)


def wrong_length(handler: Handler) -> None:
    """A shorter file than it should be, announced as such."""
    handler.send_file(cut=100, length=100)


def status(number: int, **headers: str) -> Answer:
    """An error, with headers (`_` for `-`)."""

    def answer(handler: Handler) -> None:
        handler.send_response(number)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def slow(handler: Handler) -> None:
    """The whole file, at 20 kB/s."""
    content = handler.content()
    handler.send_file(cut=0)
    start = int(handler.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
    for first in range(start, len(content), 2_000):
        handler.wfile.write(content[first : first + 2_000])
        if handler.server.leave.wait(0.1):
            return


def cut_without_length(handler: Handler) -> None:
    """A quarter of the file by a server that does not say how long it is."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(handler.content()[: len(handler.content()) // 4])


def longer(handler: Handler) -> None:
    """The file and ten times as much after it."""
    content = handler.content() * 11
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def another_part(handler: Handler) -> None:
    """A part of the file that begins elsewhere than was asked for."""
    content = handler.content()
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
