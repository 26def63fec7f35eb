"""`tbps search` as it is typed: table, JSON, paths for pipes, a page in which nothing acts."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from indexing import bring_up_to_date
from PIL import Image
from small_world import World, assert_one_sentence

from tbps.command import main
from tbps.search.model import SearchModel

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(2)<',
    "javascript:alert(3)",
    "' onmouseover='alert(4)",
    "{{ 7 * 7 }}{% include 'page.html' %}",
    "</small><iframe srcdoc=x>".replace("/", ""),
    "&lt;b&gt;&amp;",
    "\x1b[31mred\nline",
)


@pytest.fixture(scope="module")
def index(world: World, model: SearchModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of pictures with hostile names."""
    folder = tmp_path_factory.mktemp("hostile") / "pictures"
    folder.mkdir()
    files = sorted((world.mals).rglob("*.jpg"))
    for name, file in zip((*HOSTILE, "plain"), files, strict=False):
        (folder / f"{name}.jpg").write_bytes(file.read_bytes())
    bring_up_to_date(folder, folder.parent / "index", model)
    return folder.parent / "index"


class Tags(HTMLParser):
    """Names of tags and attributes, and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_hostile_words_and_none_acts(index: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    query = "a coat <script>alert(5)</script> {{ 7 * 7 }}"
    minus = '"><img src=x onerror=alert(6)>'
    assert main(["search", str(index), query, "--minus", minus, "--html", str(page)]) == 0
    tags = Tags()
    tags.feed(page.read_text(encoding="utf-8"))
    assert tags.tags == {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "h1",
        "p",
        "ol",
        "li",
        "img",
        "b",
        "small",
    }
    assert not [name for name, _ in tags.attributes if name.startswith("on") or name == "href"]
    sources = [value or "" for name, value in tags.attributes if name == "src"]
    assert len(sources) == len(HOSTILE) + 1 and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert query in tags.text and minus in tags.text
    for name in HOSTILE[:-1]:
        assert f"{name}.jpg" in tags.text
    assert "\\x1b[31mred\\nline.jpg" in tags.text and "\x1b" not in page.read_text(encoding="utf-8")


def test_paths_are_for_pipes(index: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["search", str(index), "a coat", "--paths", "-0", "--top", "50"]) == 0
    paths = capfdbinary.readouterr().out.split(b"\0")
    assert paths.pop() == b"" and len(paths) == len(HOSTILE) + 1
    assert all(Path(path.decode()).is_file() for path in paths)
    assert main(["search", str(index), "a coat", "--paths", "--path", "plain*"]) == 0
    assert Path(capfdbinary.readouterr().out.decode().removesuffix("\n")).name == "plain.jpg"


def test_json_says_all_that_is_known(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["search", str(index), "a coat:0.5", "--plus", "blue shoes", "--rerank", "4", "--top", "5", "--json"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(part["sentence"], part["weight"]) for part in said["query"]] == [("a coat", 0.5), ("blue shoes", 1.0)]
    assert [hit["rank"] for hit in said["hits"]] == [1, 2, 3, 4, 5] and said["pictures"] == len(HOSTILE) + 1
    scores = [hit["score"] for hit in said["hits"]]
    assert scores[:4] == sorted(scores[:4], reverse=True) and scores[4] is None
    for hit in said["hits"]:
        with Image.open(hit["file"]) as image:
            assert image.size == (hit["width_px"], hit["height_px"])


def test_a_table_holds_no_sign_that_steers_a_terminal(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(index), "a coat", "--image", str(next(index.parent.glob("pictures/plain*")))]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == len(HOSTILE) + 3 and table[0].split() == ["similarity", "taken", "path"]
    assert table[-1].startswith(f"{len(HOSTILE) + 1} of {len(HOSTILE) + 1} pictures compared in ")
    assert "\x1b" not in "".join(table)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([""], ["the query is empty, expected a sentence or a picture"]),
        (["a coat", "-0"], ["-0 ends paths with zero bytes, and --paths is not given"]),
        (["--image", "missing.jpg"], ["--image missing.jpg cannot be read (No such file or directory)"]),
        (["a coat", "--before", "soon"], ["--before is 'soon', expected a time such as"]),
        (["a coat", "--run", "nowhere"], ["nowhere", "holds no config.json, expected a run folder"]),
    ],
)
def test_bad_words_are_one_sentence(
    index: Path, words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(index), *words]) == 2
    assert_one_sentence(capsys.readouterr().err, *parts)


def test_a_folder_that_is_no_index_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(tmp_path), "a coat"]) == 2
    assert_one_sentence(capsys.readouterr().err, "is no index (it has no manifest.json); tbps index FOLDER", "makes one")
