"""The application's answers: searches as `Searcher` gives them, pictures by their numbers, refusals in a sentence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from asker import client_of
from hostile import HOSTILE
from indexing import bring_up_to_date
from PIL import Image
from starlette.testclient import TestClient

from tbps.search.index import Index
from tbps.search.model import SearchModel
from tbps.search.query import Filters, Query, moment
from tbps.search.searcher import Searcher
from tbps.serving.asking import DOWN, UP, asked
from tbps.serving.desk import MOST_WAITING, Desk

pytestmark = pytest.mark.xdist_group("serving")  # trained once
SENTENCE = "a woman in a red coat"


def ids(client: TestClient, **query: object) -> list[int]:
    answer = client.get(f"/api/search?{urlencode(query, doseq=True)}")
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def test_an_answer_is_the_searchers(client: TestClient, index: Path, model: SearchModel) -> None:
    searcher = Searcher(Index.open(index), model)
    query = Query.of(SENTENCE, plus=("blue shoes:0.5",), minus=("a hat",))
    filters = Filters(path="*/0*", camera=("cam_0", "cam_1"), after_s=moment("2024-01-05", name="after"))
    found = searcher.search(query, top=9, filters=filters, rerank=4)
    words = {"q": SENTENCE, "plus": "blue shoes:0.5", "minus": "a hat", "path": "*/0*", "camera": ["cam_0", "cam_1"]}
    said = client.get("/api/search", params={**words, "after": "2024-01-05", "top": 9, "rerank": 4}).json()
    assert [hit["id"] for hit in said["hits"]] == [hit.picture.row for hit in found.hits] and len(said["hits"]) == 9
    assert np.allclose([hit["similarity"] for hit in said["hits"]], [hit.similarity for hit in found.hits], atol=1e-5)
    scores = [hit["score"] for hit in said["hits"]]
    assert np.allclose(scores[:4], [hit.score for hit in found.hits[:4]], atol=1e-5) and scores[4:] == [None] * 5
    assert said["pictures"] == found.num_allowed < searcher.index.num_pictures
    root = str(index.parent)
    assert root not in str(said), "an answer tells no place on the disk"


def test_a_picture_is_asked_with_by_its_number(client: TestClient) -> None:
    assert ids(client, like=7, top=3)[0] == 7
    assert ids(client, q="a hat", top=50) != ids(client, q="a hat", like=7, top=50)


def test_thumbs_move_the_query_by_rocchios_formula(client: TestClient, index: Path, model: SearchModel) -> None:
    opened = Index.open(index)
    feature_NE = np.concatenate([features.astype(np.float64) for _, features in opened.blocks()])
    sentence_E = model.embed_sentences([SENTENCE]).embedded.feature_QE[0].numpy()
    moved_E = sentence_E + UP * feature_NE[[3, 5]].mean(0) - DOWN * feature_NE[[8, 9, 11]].mean(0)
    expected = np.argsort(-(feature_NE @ moved_E), kind="stable")[:12].tolist()
    found = ids(client, q=SENTENCE, up=[3, 5], down=[8, 9, 11], top=12)
    assert found == expected != ids(client, q=SENTENCE, top=12)
    assert ids(client, up=[3], top=1) == [3]


def test_pictures_and_thumbnails_are_what_was_indexed(client: TestClient, index: Path) -> None:
    opened = Index.open(index)
    for row in (0, 7, opened.num_rows - 1):
        thumbnail = client.get(f"/thumbnail/{row}")
        assert thumbnail.content == opened.thumbnail(row) and thumbnail.headers["content-type"] == "image/jpeg"
        picture = client.get(f"/picture/{row}")
        assert picture.content == (index.parent / "pictures").joinpath(os.fsdecode(opened.path(row))).read_bytes()
        assert picture.headers["content-type"] == "image/jpeg" and "sandbox" in picture.headers["content-security-policy"]


@pytest.mark.parametrize(
    "address",
    [
        *(f"/{kind}/{name}" for kind in ("thumbnail", "picture") for name in ("9999", "-1", "9" * 15, "x", "1.5", "%31%00")),
        *("/picture/cam_0/000.jpg", "/picture/..%2f..%2fetc%2fpasswd", "/picture/../../etc/passwd", "/picture//etc/passwd"),
        *("/../../etc/passwd", "/..%2f..%2fsetup.cfg", "/app.py", "/page.html/../app.py", "/__init__.py", "/picture/\u0663"),
    ],
)
def test_nothing_but_listed_pictures_is_given(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 404 and set(answer.json()) == {"error"}


def test_files_that_are_no_more_what_was_indexed_are_refused(
    index: Path, model: SearchModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(index.parent / "pictures" / "cam_0", pictures)
    bring_up_to_date(pictures, tmp_path / "index", model)
    desk = Desk(Searcher(Index.open(tmp_path / "index"), model))
    client, opened = client_of(desk), Index.open(tmp_path / "index")
    link, changed, gone, kept = (pictures / os.fsdecode(opened.path(row)) for row in range(4))
    (tmp_path / "secret.jpg").write_bytes(link.read_bytes())  # the very same bytes, outside of the root
    link.unlink()
    link.symlink_to(tmp_path / "secret.jpg")
    changed.write_bytes(kept.read_bytes())
    gone.unlink()
    said = [client.get(f"/picture/{row}") for row in range(4)]
    assert [answer.status_code for answer in said] == [404, 404, 404, 200]
    for answer, part in zip(said, ("it leads out of", "has changed since it was indexed", "cannot be opened"), strict=False):
        assert part in answer.json()["error"]
    assert client.get("/thumbnail/2").status_code == 200
    bring_up_to_date(pictures, tmp_path / "index", model)  # while it is served
    assert 2 not in ids(client, q=SENTENCE, top=200)
    assert [client.get(f"/{kind}/2").status_code for kind in ("thumbnail", "picture")] == [404, 404]
    (tmp_path / "index" / "segment-000001.thumbnails").unlink()
    assert client.get("/thumbnail/3").json() == {"error": "the thumbnail cannot be read"}
    (tmp_path / "index" / "manifest.json").write_text("{}")
    assert client.get("/api/search", params={"q": SENTENCE}).status_code == 200, "an index that broke is searched as it was"


def test_pictures_that_browsers_do_not_draw_become_jpeg(model: SearchModel, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 24, 3), dtype=np.uint8)
    for name in ("a.tif", "b.png", "c.gif"):
        Image.fromarray(pixels).save(tmp_path / "pictures" / name)
    bring_up_to_date(tmp_path / "pictures", tmp_path / "index", model)
    client = client_of(Desk(Searcher(Index.open(tmp_path / "index"), model)))
    answers = [client.get(f"/picture/{row}") for row in range(3)]
    assert [answer.headers["content-type"] for answer in answers] == ["image/jpeg", "image/png", "image/gif"]
    assert answers[0].content.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "the query is empty, expected a sentence or a picture"),
        ("q=", "the query is empty, expected a sentence or a picture"),
        ("q=%20%20", "a part of the query is empty"),
        ("q=%3F%21", "has no word, expected at least one"),
        ("q=a+coat%3A0", "the weight of a part of the query is 0.0"),
        ("q=a&q=b", "q stands 2 times in the query, expected once"),
        ("q=a&" + "plus=b&" * 65, "plus stands 65 times in the query, expected at most 64 times"),
        ("q=a&colour=red", "'colour' is unknown, expected one of q, path"),
        ("like=cam_0/000.jpg", "like is 'cam_0/000.jpg', expected the number of a picture"),
        ("like=999", "picture 999 is not in the index"),
        ("up=" + "9" * 13, "expected the number of a picture"),
        ("q=a&top=0", "top is '0', expected a number from 1 to 200"),
        ("q=a&top=1e9", "top is '1e9', expected a number"),
        ("q=a&rerank=129", "rerank is '129', expected a number from 0 to 128"),
        ("q=a&after=soon", "after is 'soon', expected a time such as"),
        ("q=a+coat&minus=a+coat", "the parts of the query cancel each other"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_sentence(client: TestClient, query: str, said: str) -> None:
    answer = client.get(f"/api/search?{query}")
    assert answer.status_code == 400 and said in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_a_query_without_end_is_refused(desk: Desk) -> None:
    with pytest.raises(ValueError, match="the query has more than 150,000 characters; write a shorter one"):
        asked([("q", "a" * 75_001), ("plus", "b" * 75_000)], desk.index)


def test_long_foreign_and_hostile_sentences_are_answered(client: TestClient) -> None:
    long = client.get("/api/search", params={"q": "a red coat " * 3333}).json()
    assert len(long["hits"]) == 20 and "words at its end are not" in long["remarks"][0]
    foreign = client.get("/api/search", params={"q": "\u5973\u4eba\u7a7f\u7740\u7ea2\u8272\u5916\u5957"}).json()
    assert "are not in the vocabulary of the run" in foreign["remarks"][0]
    for text in HOSTILE:
        answer = client.get("/api/search", params={"q": f"a coat {text}", "top": 50})
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    paths = [hit["path"] for hit in answer.json()["hits"]]
    assert len(paths) == 50 and not any(sign in path for path in paths for sign in "\x1b\n\r\u202e")


def test_whoever_comes_when_many_wait_is_told(client: TestClient, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_waiting", MOST_WAITING)
    answer = client.get("/api/search", params={"q": SENTENCE})
    assert answer.status_code == 503 and "ask again in a moment" in answer.json()["error"] and answer.headers["retry-after"]
    assert client.get("/thumbnail/0").status_code == 200
    monkeypatch.undo()
    assert ids(client, q=SENTENCE)


def test_the_index_says_what_it_is(client: TestClient) -> None:
    said = client.get("/api/about").json()
    assert said == {"name": "index", "pictures": 50, "cameras": ["cam_0", "cam_1"], "reranks": True, "blurs": False}


def test_the_page_comes_with_all_that_it_asks_for(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8" and "lawfully search" in page.text
    kinds = {
        "/page.css": "text/css",
        "/page.js": "text/javascript",
        "/state.js": "text/javascript",
        "/sending.js": "text/javascript",
        "/icon.svg": "image/svg+xml",
    }
    for address, kind in kinds.items():
        assert client.get(address).headers["content-type"].partition(";")[0] == kind
    assert client.post("/api/search").status_code == 405 and client.head("/").status_code == 200
