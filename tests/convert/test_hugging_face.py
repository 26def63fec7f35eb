"""Fetching a Hugging Face name, from a small server of this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tbps.convert.hugging_face import read_pretrained

WEIGHTS = {"cls_token": torch.arange(3.0)}
FILES = {"/some/tiny-vit/resolve/main/pytorch_model.bin": save(WEIGHTS), "/some/nothing/resolve/main/README.md": b"empty"}
# The reader looks into a file, not at its name: safetensors bytes under the older name are fine.


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        content = FILES.get(self.path)
        known = any(name.startswith(self.path.split("/resolve/")[0] + "/") for name in FILES)
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body and content:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    pytest.importorskip("huggingface_hub")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        constants = "huggingface_hub.constants"
        monkeypatch.setattr(f"{constants}.ENDPOINT", address)
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        yield server
        server.shutdown()
        thread.join()


def test_a_name_is_fetched_once_and_then_read_from_the_cache(
    hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_pretrained("some/tiny-vit")
    assert torch.equal(found.weights.tensors["cls_token"], WEIGHTS["cls_token"])
    assert found.weights.source == "some/tiny-vit" and found.config == {}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert read_pretrained("some/tiny-vit").weights.sha256 == found.weights.sha256


def test_a_name_that_the_hub_does_not_know_is_refused(hub: ThreadingHTTPServer) -> None:
    with pytest.raises(
        ValueError, match=r"some/absent: found no such .* does not give it \(RepositoryNotFoundError\); check the"
    ):
        read_pretrained("some/absent")


def test_a_name_without_weights_is_refused(hub: ThreadingHTTPServer) -> None:
    with pytest.raises(
        ValueError, match=r"some/nothing: found no weights there, expected model\.safetensors or pytorch_model"
    ):
        read_pretrained("some/nothing")
