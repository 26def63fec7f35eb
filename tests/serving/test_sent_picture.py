"""A picture that is sent to search with: what comes back stands for it in addresses, and hostile ones are a sentence."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import HOSTILE
from PIL import Image
from starlette.testclient import TestClient

from tbps.search.query import Part, Query
from tbps.search.searcher import Searcher
from tbps.serving.desk import MOST_SENDING, Desk
from tbps.serving.sent_picture import MOST_BYTES, feature_of, text_of

pytestmark = pytest.mark.xdist_group("serving")  # trained once


def a_file(index: Path) -> bytes:
    return next((index.parent / "pictures").rglob("004.jpg")).read_bytes()


def as_file(kind: str, size: tuple[int, int], mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 99).save(file, kind)
    return file.getvalue()


def test_it_finds_what_the_file_finds(client: TestClient, desk: Desk, index: Path) -> None:
    before = sorted(path.name for path in index.parent.rglob("*"))
    sent = client.post("/api/picture", content=a_file(index))
    assert sent.status_code == 200 and set(sent.json()) == {"picture"}
    found = client.get("/api/search", params={"picture": sent.json()["picture"], "top": 10}).json()["hits"]
    expected = Searcher(desk.index, desk._searcher.model).search(Query(parts=(Part(picture=a_file(index)),)), top=10)
    assert [hit["id"] for hit in found] == [hit.picture.row for hit in expected.hits]
    assert found[0]["path"].endswith("/004.jpg") and found[0]["similarity"] > 0.999
    both = client.get("/api/search", params={"picture": sent.json()["picture"], "q": "a hat", "minus": "a coat"})
    assert both.status_code == 200 and sorted(path.name for path in index.parent.rglob("*")) == before


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PNG", "TIFF", "WEBP"])
def test_other_formats_are_read(client: TestClient, kind: str) -> None:
    assert client.post("/api/picture", content=as_file(kind, (40, 90))).status_code == 200


def test_hostile_files_are_one_sentence(client: TestClient, index: Path, desk: Desk) -> None:
    whole, bomb = a_file(index), bytearray(as_file("PNG", (8, 8)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # a header that claims 3.6 gigapixels
    texts = [text.encode() for text in HOSTILE]
    for content in (
        whole[: len(whole) // 2],
        whole[:20],
        bytes(bomb),
        bytes(5000),
        b"<svg onload=a()>",
        b"\xff\xd8\xff",
        *texts,
    ):
        answer = client.post("/api/picture", content=content)
        said = answer.json()["error"]
        assert answer.status_code == 400 and "the picture to search with cannot be used: " in said, content[:40]
        assert "\n" not in said and len(said) < 300 and str(index.parent) not in said
    assert "the picture is empty" in client.post("/api/picture").json()["error"]
    large = client.post("/api/picture", content=bytes(MOST_BYTES + 1))
    assert large.status_code == 413 and "has more than 16 MiB, expected a smaller one" in large.json()["error"]
    assert client.get("/api/picture").status_code == 405
    assert client.post("/api/picture", content=whole, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert desk._sending == 0 and client.post("/api/picture", content=whole).status_code == 200


def test_only_some_are_held_at_a_time(client: TestClient, desk: Desk, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_sending", MOST_SENDING)
    assert client.post("/api/picture", content=a_file(index)).status_code == 503


def test_a_text_is_the_feature_and_nothing_else() -> None:
    feature_E = torch.nn.functional.normalize(torch.randn(24, generator=torch.Generator().manual_seed(0)), dim=0)
    text = text_of(feature_E, "ab" * 32)
    assert np.frombuffer(feature_of(text, weights_sha256="ab" * 32, width=24), "<f2").tolist() == feature_E.half().tolist()
    digest = base64.urlsafe_b64decode(text + "==")[:4]

    def as_text(numbers: np.ndarray) -> str:
        return base64.urlsafe_b64encode(digest + numbers.astype("<f2").tobytes()).decode().rstrip("=")

    half = feature_E.numpy()
    for wrong in (text[:-4], text + "AAAA", "", "!", text[:5], as_text(2 * half), as_text(half * np.nan), as_text(0 * half)):
        with pytest.raises(ValueError, match=r"^picture is '.{0,40}', expected what the server answers to a picture"):
            feature_of(wrong, weights_sha256="ab" * 32, width=24)
    for other in ("cd" * 32, ""):
        with pytest.raises(ValueError, match="was read by other weights than the index's; send it again"):
            feature_of(text, weights_sha256=other, width=24)
    with pytest.raises(ValueError, match="the index holds no picture yet"):
        feature_of(text, weights_sha256="ab" * 32, width=0)
