"""The address that is listened on, and the server on it until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import re
import secrets
import socket
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from tbps.runs.atomic_file import words_of

TOKEN = re.compile(r"[A-Za-z0-9_.~-]{16,200}")
_LONGEST_HEAD = 1 << 20
"""Bytes of a request's head: a sentence of 10,000 words fits."""
_ENDING_S = 1
"""Seconds that answers have when the server is asked to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """A socket that listens, and how to be let in."""

    listening: socket.socket
    host: str
    """As it was given."""
    token: str
    """Empty: nobody needs one."""

    @property
    def port(self) -> int:
        """The one that is listened on."""
        return int(self.listening.getsockname()[1])

    @property
    def address(self) -> str:
        """To be opened in a browser."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    @property
    def names(self) -> frozenset[str]:
        """What a Host header may say."""
        own = {self.host.lower(), "localhost", "127.0.0.1", "::1"}
        return frozenset(own if is_loopback(self.host) else {*own, socket.gethostname().lower(), socket.getfqdn().lower()})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_door(host: str, port: int, token: str | None) -> Door:
    """Listen. token: None = one is made where others than this machine reach the address, "" = one is made anyhow.

    ValueError: the token is weak, or the address cannot be listened on.
    """
    if token and not TOKEN.fullmatch(token):
        raise ValueError(
            f"the token has {len(token)} characters, expected 16 to 200 letters, digits and . _ ~ -; leave --token alone to"
            " have one made"
        )
    if not 0 <= port <= 65_535:
        raise ValueError(f"--port is {port}, expected 0 to 65535 (0 = any that is free)")
    if token == "" or (token is None and not is_loopback(host)):
        token = secrets.token_urlsafe(24)
    return Door(listening=_listen(host, port), host=host, token=token or "")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ValueError(f"--host is {host!r}, which is no address of a machine ({error.strerror}); correct it") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({words_of(error)})"
        raise ValueError(f"port {port} of {host} {what}; give another one by --port (0 = any that is free)") from error
    return listening


def serve(app: ASGIApp, door: Door) -> None:
    """Answer until SIGTERM or Ctrl-C, which then does what it did before."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_LONGEST_HEAD,
        limit_concurrency=256,
        timeout_graceful_shutdown=_ENDING_S,
        log_level="warning",
    )
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    uvicorn.Server(config).run(sockets=[door.listening])


def _is_news(record: logging.LogRecord) -> bool:
    """Not that answers were cut off because the server ends: whoever ends it knows."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)
