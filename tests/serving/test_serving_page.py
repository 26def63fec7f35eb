"""The page in a real browser, with a server behind it: typed, clicked and read as a person does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from browser import CHROMIUM, Browser
from hostile import HOSTILE
from PIL import Image
from served import Served, serving

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)"),
    pytest.mark.xdist_group("served page"),  # served once
]

IDS = "[...document.querySelectorAll('#results img')].map((image) => Number(image.src.split('/').pop()))"
STATUS = "document.querySelector('#status').textContent"
PARTS = "[...document.querySelectorAll('#parts li')].map((part) => part.innerText.trim())"


@pytest.fixture(scope="module")
def served(index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(index, tmp_path_factory.mktemp("said") / "said") as served:
        yield served


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Browser]:
    """Without anything asked or remembered."""
    browser.events.clear()
    browser.open(served.address)
    browser.run("localStorage.clear()")
    browser.open(served.address)
    browser.until(f"{STATUS} === 'Type whom you look for.'")
    yield browser
    assert browser.problems() == []
    assert browser.run("window.acted") is None


def answered(page: Browser, query: dict[str, object]) -> list[int]:
    """Numbers that the page shows, when they are those that the server answers to this query."""
    address = f"api/search?{urlencode(query, doseq=True)}"
    expected = page.run(
        f"fetch({json.dumps(address)}).then((said) => said.json()).then((said) => said.hits.map((hit) => hit.id))"
    )
    assert len(expected) > 3
    page.until(f"JSON.stringify({IDS}) === {json.dumps(json.dumps(expected, separators=(',', ':')))}")
    assert page.run("location.search.slice(1)") == urlencode(query, doseq=True)
    return list(expected)


def test_every_feature_by_mouse_and_keys(page: Browser, tmp_path: Path) -> None:
    page.type("a red coat")  # the field has the focus
    plain = answered(page, {"q": "a red coat"})
    assert len(plain) == 20
    page.click("#more")
    page.type("blue shoes:0.5")
    page.click("#plus")
    more = answered(page, {"q": "a red coat", "plus": "blue shoes:0.5"})
    page.click("#more")
    page.type("a hat")
    page.click("#minus")
    less = answered(page, {"q": "a red coat", "plus": "blue shoes:0.5", "minus": "a hat"})
    assert len({tuple(plain), tuple(more), tuple(less)}) == 3
    assert [part.split("\n")[0] for part in page.run(PARTS)] == ["+ blue shoes:0.5", "\u2212 a hat"]
    page.click("#parts li button")
    query: dict[str, object] = {"q": "a red coat", "minus": "a hat"}
    answered(page, query)
    page.click("#filters summary")
    page.run(
        "const camera = document.querySelector('#camera'); camera.value = 'cam_1'; camera.dispatchEvent(new Event('change'))"
    )
    filtered = answered(page, {"q": "a red coat", "minus": "a hat", "camera": "cam_1"})
    assert page.run("[...document.querySelectorAll('.path')].every((path) => path.textContent.startsWith('cam_1/'))")
    page.click("#rerank")
    query = {"q": "a red coat", "rerank": 32, "minus": "a hat", "camera": "cam_1"}
    assert sorted(answered(page, query)) != [] and "matching" in page.run("document.querySelector('#results').innerText")
    assert filtered != page.run(IDS)
    page.picture(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        assert len(set(image.convert("RGB").resize((300, 380)).getdata())) > 1000
    page.call("Page.navigateToHistoryEntry", entryId=page.call("Page.getNavigationHistory")["entries"][-2]["id"])
    answered(page, {"q": "a red coat", "minus": "a hat", "camera": "cam_1"})


def test_thumbs_and_more_like_this(page: Browser) -> None:
    page.type("a red coat")
    page.press("Enter", 13)
    first = answered(page, {"q": "a red coat"})
    page.click("#results li:nth-child(4) [aria-label='Picture 4 fits']")
    moved = answered(page, {"q": "a red coat", "up": first[3]})
    assert moved != first and moved.index(first[3]) < 3
    worst = moved[0] if moved[0] != first[3] else moved[1]
    place = moved.index(worst) + 1
    page.click(f"[aria-label='Picture {place} does not fit']")
    again = answered(page, {"q": "a red coat", "up": first[3], "down": worst})
    place = again.index(first[3]) + 1
    assert page.run(f"document.querySelector(\"[aria-label='Picture {place} fits']\").ariaPressed") == "true"
    page.click(f"[aria-label='More like picture {place}']")
    assert answered(page, {"like": first[3]})[0] == first[3]


def test_a_permanent_link_shows_the_same(page: Browser, served: Served) -> None:
    query = {
        "q": "a man",
        "path": "*/0*",
        "after": "2024-01-03T00:00",
        "top": 50,
        "plus": ["a bag", "shoes:2"],
        "up": [3, 4],
    }
    page.open(f"{served.address}?{urlencode(query, doseq=True)}")
    shown = answered(page, query)
    assert len(shown) > 20 and page.run("document.querySelector('#filters').open") is True
    fields = {name: page.run(f"document.querySelector('#{name}').value") for name in ("q", "path", "after", "top")}
    assert fields == {name: str(query[name]) for name in fields}
    assert "+ shoes:2" in page.run(PARTS)[1]


def test_the_full_picture_opens_by_keys_alone(page: Browser) -> None:
    page.type("a red coat")
    page.press("Enter", 13)
    shown = answered(page, {"q": "a red coat"})
    page.press("Tab", 9)
    for _ in range(30):
        if page.run("document.activeElement.className") == "open":
            break
        page.press("Tab", 9)
    page.press("Enter", 13)
    page.until("document.querySelector('dialog').open && document.querySelector('#full').naturalWidth")
    assert page.run("document.querySelector('#full').src").endswith(f"/picture/{shown[0]}")
    page.press("ArrowRight", 39)
    page.until(f"document.querySelector('#full').src.endsWith('/picture/{shown[1]}')")
    page.press("Escape", 27)
    page.until("!document.querySelector('dialog').open")
    assert page.run("document.activeElement.className") == "open"


def test_why_draws_where_the_picture_answers_a_word(page: Browser, tmp_path: Path) -> None:
    page.type("a red coat")
    page.press("Enter", 13)
    shown = answered(page, {"q": "a red coat"})
    page.click("#results li:nth-child(2) .open")
    page.until("document.querySelector('#full').naturalWidth")
    page.click("#why")
    page.until("document.querySelectorAll('#words button').length === 3")
    why = page.run(f"fetch('api/why?id={shown[1]}&sentence=a+red+coat').then((said) => said.json())")
    adds = page.run("[...document.querySelectorAll('#words small')].map((each) => each.textContent.replace('\u2212', '-'))")
    assert [float(each) for each in adds] == [pytest.approx(word["adds"], abs=6e-4) for word in why["words"]]
    page.click("#words li:nth-child(2) button")
    page.until("!document.querySelector('#map').hidden")
    assert '"red" adds ' in page.run("document.querySelector('#viewer-status').textContent")
    rows = why["words"][1]["map"]
    height, width = len(rows), len(rows[0])
    pixel = f"getImageData((x + 0.5) * map.width / {width}, (y + 0.5) * map.height / {height}, 1, 1).data[3]"
    drawn = page.run(
        "(() => { const map = document.querySelector('#map'); const context = map.getContext('2d'); return"
        f" Array.from({{length: {height}}}, (_, y) => Array.from({{length: {width}}}, (_, x) => context.{pixel})); }})()"
    )
    flat = [
        (weight, alpha) for row, alphas in zip(rows, drawn, strict=True) for weight, alpha in zip(row, alphas, strict=True)
    ]
    assert max(flat)[1] == max(alpha for _, alpha in flat) > 100 > min(alpha for _, alpha in flat) == min(flat)[1]
    page.picture(tmp_path / "why.png")
    page.click("#words li:nth-child(2) button")
    assert page.run("document.querySelector('#map').hidden") is True
    page.click("#next")
    page.until("document.querySelectorAll('#words button').length === 0")
    page.press("Escape", 27)


def test_earlier_queries_are_kept_and_forgotten(page: Browser, served: Served) -> None:
    for text in ("a red coat", "white shoes"):
        page.run("document.querySelector('#q').value = ''; document.querySelector('#q').focus()")
        page.type(text)
        page.press("Enter", 13)
        answered(page, {"q": text})
    page.open(served.address)
    page.click("#past summary")
    assert page.run("[...document.querySelectorAll('#history button')].map((past) => past.textContent)") == [
        "white shoes",
        "a red coat",
    ]
    page.click("#history li:nth-child(2) button")
    answered(page, {"q": "a red coat"})
    page.click("#forget")
    assert page.run("[localStorage.length, document.querySelectorAll('#history button').length]") == [0, 0]


def test_a_picture_is_chosen_dropped_and_taken_away(page: Browser, served: Served, index: Path, tmp_path: Path) -> None:
    file = next((index.parent / "pictures").rglob("004.jpg"))
    page.choose("#sent", file)
    page.until(f"({IDS}).length === 20")
    text = page.run("new URLSearchParams(location.search).get('picture')")
    shown = answered(page, {"picture": text})
    assert page.run("document.querySelector('#results .path').textContent").endswith("/004.jpg")
    colours = "[...new Set(document.querySelector('#parts canvas').getContext('2d').getImageData(0, 0, 15, 40).data)].length"
    assert page.run(colours) > 20 and page.run("document.querySelector('#parts canvas').height") == 40
    page.click("#q")
    page.type("a red coat")
    answered(page, {"q": "a red coat", "picture": text})
    page.open(f"{served.address}?picture={text}")  # a link that somebody else was given
    assert answered(page, {"picture": text}) == shown and page.run(PARTS)[0].startswith("like your picture")
    other = next((index.parent / "pictures").rglob("007.jpg"))
    page.drop(other)
    page.until("document.querySelector('#results .path').textContent.endsWith('/007.jpg')")
    assert page.run("document.body.className") == "" and page.run(f"({PARTS}).length") == 1
    page.picture(tmp_path / "sent.png")
    page.run("document.querySelector('#parts button').focus()")
    page.press("Enter", 13)
    page.until(f"{STATUS} === 'Type whom you look for.' && document.activeElement.id === 'q'")


def test_what_is_no_picture_is_said(page: Browser, tmp_path: Path) -> None:
    (tmp_path / "<img src=x onerror=window.acted=1>.png").write_bytes(b"<svg onload=window.acted=2>")
    (tmp_path / "large.jpg").write_bytes(bytes((16 << 20) + 1))
    for name, said in (("<img src=x onerror=window.acted=1>.png", "cannot be used"), ("large.jpg", "more than 16 MiB")):
        page.choose("#sent", tmp_path / name)
        page.until(f"{STATUS}.includes({json.dumps(said)}) && document.querySelector('#status').className === 'wrong'")
    assert page.run("location.search") == ""
    page.events[:] = [event for event in page.events if "status of 400" not in json.dumps(event)]


def test_a_server_that_is_started_anew_is_found_by_the_page(index: Path, browser: Browser, tmp_path: Path) -> None:
    with serving(index, tmp_path / "first") as first:
        port = first.port
        browser.open(f"{first.address}?q=a+red+coat")
        browser.until(f"({IDS}).length === 20")
    browser.run("document.querySelector('#q').focus()")
    browser.type(" and a hat")
    browser.until(f"{STATUS} === 'The server does not answer; it may have been stopped. Asking again\u2026'")
    assert browser.run(f"({IDS}).length") == 20, "what was found stays"
    with serving(index, tmp_path / "second", port=port):
        answered(browser, {"q": "a red coat and a hat"})
        assert browser.run("document.querySelector('#status').className") == ""
        browser.open("about:blank")  # before the second one goes too


def test_twenty_hostile_strings_and_none_acts(page: Browser, served: Served) -> None:
    page.open(f"{served.address}?q=a+coat&top=50")
    page.until(f"({IDS}).length === 50")
    tags = "[...new Set([...document.querySelectorAll('#results *')].map((each) => each.tagName))].sort().join()"
    assert page.run(tags) == "B,BUTTON,DIV,IMG,LI,SMALL,SPAN"
    text = page.run("document.querySelector('#results').textContent")
    assert all(name in text for name in HOSTILE if name.isprintable())
    for words in HOSTILE:
        link = urlencode([(name, words) for name in ("q", "plus", "minus", "path", "camera", "after", "like", "up", "evil")])
        page.open(f"{served.address}?{link}")
        page.until("document.querySelector('#status').className === 'wrong'")
        assert page.run("document.querySelectorAll('script, iframe, style, base, svg').length") == 1
    page.open(f"{served.address}?{urlencode({'q': 'a coat', 'minus': [f'{words} b:0.1' for words in HOSTILE]}, doseq=True)}")
    page.until(f"({IDS}).length === 20")
    shown = page.run("[...document.querySelectorAll('#parts span')].map((part) => part.textContent)")
    assert [" ".join(part.split()) for part in shown] == [" ".join(f"\u2212 {words} b:0.1".split()) for words in HOSTILE]
    page.events[:] = [event for event in page.events if "status of 400" not in json.dumps(event)]


def test_it_fits_a_telephone_and_says_what_things_are(page: Browser, tmp_path: Path) -> None:
    page.size(360, 740)
    page.type("a red coat")
    answered(page, {"q": "a red coat"})
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.picture(tmp_path / "telephone.png")
    page.call("Emulation.clearDeviceMetricsOverride")
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")}
    unnamed = {role for role, name in named if not name} & {
        "button",
        "image",
        "searchbox",
        "textbox",
        "checkbox",
        "combobox",
    }
    assert not unnamed
    roles = {role for role, _ in named}
    assert {"search", "main", "banner", "contentinfo", "status", "searchbox", "list"} <= roles
    assert any(role == "button" and name.startswith("A picture of one person") for role, name in named)
    assert ("button", "More like picture 1") in named and ("searchbox", "Whom do you look for?") in named
    assert "lawfully search" in page.run("document.querySelector('footer').innerText")
