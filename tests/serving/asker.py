"""Who asks the application without a network."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from tbps.serving.access_log import AccessLog
from tbps.serving.app import make_app
from tbps.serving.desk import Desk
from tbps.serving.guard import Guard

NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
ADDRESS = "http://127.0.0.1:8765"


def client_of(desk: Desk, *, token: str = "", log: Path | None = None, address: str = ADDRESS) -> TestClient:
    """Who asks the application as `tbps serve` makes it."""
    app = Guard(make_app(desk), token=token, names=NAMES, any_address=bool(token), log=AccessLog(log))
    return TestClient(app, base_url=address, follow_redirects=False, raise_server_exceptions=True)
