"""A Hugging Face hub on 127.0.0.1: what its client asks to push a model, large files by LFS, and to fetch it again."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "someone/mars-tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"
LARGE = 200_000
"""Bytes from which a file goes by LFS; the hub's own bound is 10 MB."""


class Hub(ThreadingHTTPServer):
    """One private repository, in memory, that is there once it was created."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.large: dict[str, bytes] = {}
        """What was uploaded by LFS, by sha256."""
        self.refused: list[str] = []
        """Requests without the right token."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def local_hub() -> Iterator[Hub]:
    """It answers until the end of the block."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, value: Any, status: int = 200, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(value, bytes) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _may(self) -> bool:
        """Whether the token is right; answers where it is not."""
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.server.refused.append(self.path)
        self._answer({"error": "Invalid username or password."}, 401)
        return False

    # -- reading -------------------------------------------------------------------------------------------------------

    def do_GET(self) -> None:
        if not self._may():
            return
        path, files = self.path.partition("?")[0], self.server.files
        if path == "/api/whoami-v2":
            self._answer({"name": "someone", "type": "user"})
        elif not self.server.created:
            self._missing("RepoNotFound")
        elif path in (f"/api/models/{NAME}", f"/api/models/{NAME}/revision/main"):
            siblings = [{"rfilename": name} for name in files]
            self._answer({"id": NAME, "modelId": NAME, "sha": COMMIT, "private": True, "siblings": siblings, "tags": []})
        elif path.startswith(f"/api/models/{NAME}/tree/"):
            self._answer([{"type": "file", "path": name, **_stored(content)} for name, content in files.items()])
        elif path.startswith(f"/{NAME}/resolve/") and (name := path.rpartition("/")[2]) in files:
            self._answer(files[name], ETag=f'"{_stored(files[name])["oid"]}"', X_Repo_Commit=COMMIT)
        else:
            self._missing("EntryNotFound" if path.startswith(f"/{NAME}/") else "RepoNotFound")

    do_HEAD = do_GET

    def _missing(self, code: str) -> None:
        self._answer({"error": "not here"}, 404, X_Error_Code=code, X_Repo_Commit=COMMIT)

    # -- writing -------------------------------------------------------------------------------------------------------

    def do_POST(self) -> None:
        body = self._body()
        if self.path.startswith("/api/validate-yaml"):
            self._answer({})
        elif self._may():
            self._write(body)

    def _write(self, body: bytes) -> None:
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self._answer({"url": f"{self.server.address}/{NAME}", "id": NAME, "name": NAME})
        elif self.path.startswith(f"/api/models/{NAME}/preupload/"):
            files = json.loads(body)["files"]
            modes = ["lfs" if one["size"] >= LARGE else "regular" for one in files]
            told = [{"path": one["path"], "uploadMode": mode, "shouldIgnore": False} for one, mode in zip(files, modes)]
            self._answer({"files": told})
        elif self.path == f"/{NAME}.git/info/lfs/objects/batch":
            asked = json.loads(body)
            href = f"{self.server.address}/large/"
            actions = [{**one, "actions": {"upload": {"href": href + one["oid"]}}} for one in asked["objects"]]
            self._answer({"transfer": "basic", "objects": actions})
        elif self.path.startswith(f"/api/models/{NAME}/commit/"):
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._missing("RepoNotFound")

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for value in (line["value"] for line in lines if line["key"] in ("file", "lfsFile")):
            inline = "content" in value
            content = base64.b64decode(value["content"]) if inline else self.server.large[value["oid"]]
            self.server.files[value["path"]] = content
        url = f"{self.server.address}/{NAME}/commit/{COMMIT}"
        self._answer({"success": True, "commitOid": COMMIT, "commitUrl": url})

    def do_PUT(self) -> None:
        """A large file; its address is signed, so no token comes with it."""
        content, oid = self._body(), self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            self._answer({"error": "another content"}, 400)
            return
        self.server.large[oid] = content
        self._answer({})


def _stored(content: bytes) -> dict[str, Any]:
    """As the hub tells of a file: its git digest, and of a large one the sha256 too."""
    digest = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if len(content) < LARGE:
        return {"oid": digest, "size": len(content)}
    sha256 = hashlib.sha256(content).hexdigest()
    return {"oid": sha256, "size": len(content), "lfs": {"oid": sha256, "size": len(content), "pointerSize": 132}}
