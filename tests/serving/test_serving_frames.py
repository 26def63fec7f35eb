"""People who were cut out of frames: shown alone, or in the whole frame with the box; in the answers and on the page."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from asker import client_of
from browser import CHROMIUM, Browser
from indexing import bring_up_to_date
from numpy.typing import NDArray
from PIL import Image
from served import serving
from small_world import World
from starlette.testclient import TestClient
from torch import Tensor, nn

from tbps.search.index import Index
from tbps.search.model import SearchModel
from tbps.search.people import Detector
from tbps.search.searcher import Searcher
from tbps.serving.desk import Desk

pytestmark = pytest.mark.xdist_group("serving")  # trained once
FRAME_PX = (160, 200)
BOXES = [(20, 24, 68, 144), (110, 30, 158, 150)]


class TwoPeople(nn.Module):
    """Says of each frame what torchvision's detectors say: somebody stands in both boxes."""

    def forward(self, frames: list[Tensor]) -> list[dict[str, Tensor]]:
        boxes, scores = torch.tensor(BOXES).float(), torch.tensor([0.9, 0.8])
        return [{"boxes": boxes, "labels": torch.ones(2, dtype=torch.int64), "scores": scores} for _ in frames]


@pytest.fixture(scope="module")
def frames_index(world: World, model: SearchModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two people in each of three frames."""
    folder = tmp_path_factory.mktemp("frames") / "frames"
    folder.mkdir()
    people = sorted((world.cuhk_pedes / "imgs").rglob("*.jpg"))
    for number in range(3):
        frame = Image.new("RGB", FRAME_PX[::-1], (90, 120, 150))
        for (left, top, right, bottom), person in zip(BOXES, people[2 * number :], strict=False):
            frame.paste(Image.open(person).resize((right - left, bottom - top)), (left, top))
        frame.save(folder / f"{number}.png")
    network = TwoPeople()
    detector = Detector(
        network=network, device=torch.device("cpu"), name="two", source="", sha256="0" * 64, score=0.5, height_px=64
    )
    bring_up_to_date(folder, folder.parent / "index", model, detector=detector)
    return folder.parent / "index"


@pytest.fixture
def client(frames_index: Path, model: SearchModel, tmp_path: Path) -> Iterator[TestClient]:
    desk = Desk(Searcher(Index.open(frames_index), model))
    yield client_of(desk, log=tmp_path / "access.log")
    desk.close()


def pixels(content: bytes) -> NDArray[np.float64]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64)


def test_a_person_is_given_alone_and_in_the_frame_with_the_box(client: TestClient, frames_index: Path) -> None:
    hits = client.get("/api/search?q=a+man").json()["hits"]
    assert len(hits) == 6 and {tuple(hit["box"]) for hit in hits} == set(BOXES)
    folder = frames_index.parent / "frames"
    for hit in hits:
        left, top, right, bottom = hit["box"]
        whole_HWC = pixels((folder / hit["path"].partition("#")[0]).read_bytes())
        alone_HWC = pixels(client.get(f"/picture/{hit['id']}").content)
        assert np.abs(alone_HWC - whole_HWC[top:bottom, left:right]).mean() < 4
        answer = client.get(f"/frame/{hit['id']}")
        assert answer.headers["content-type"] == "image/jpeg" and "sandbox" in answer.headers["content-security-policy"]
        frame_HWC = pixels(answer.content)
        assert frame_HWC.shape == whole_HWC.shape
        inside = np.abs(frame_HWC - whole_HWC)[top + 4 : bottom - 4, left + 4 : right - 4]
        assert inside.mean() < 4, "the person is seen as before"
        assert frame_HWC[top + 40, left - 2].mean() > 200 and frame_HWC[top + 40, left - 4].mean() < 80, "white beside black"
    why = client.get("/api/why", params={"id": hits[0]["id"], "sentence": "a man"})
    assert why.status_code == 200 and len(why.json()["words"]) == 2


def test_a_frame_that_has_changed_or_is_not_listed_is_not_given(client: TestClient, frames_index: Path) -> None:
    file = frames_index.parent / "frames" / "2.png"
    before = file.read_bytes()
    file.write_bytes(before + b" ")
    try:
        row = next(hit["id"] for hit in client.get("/api/search?q=a+man").json()["hits"] if hit["path"].startswith("2"))
        for place in ("frame", "picture"):
            answer = client.get(f"/{place}/{row}")
            assert answer.status_code == 404 and "has changed since it was indexed" in answer.json()["error"]
        assert client.get("/frame/999").status_code == client.get("/frame/x").status_code == 404
    finally:
        file.write_bytes(before)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: apt-get install chromium)")
def test_the_page_shows_the_whole_frame_and_the_person_again(frames_index: Path, tmp_path: Path) -> None:
    with serving(frames_index, tmp_path / "said", "--blur-faces") as served, Browser(tmp_path / "profile") as page:
        page.open(f"{served.address}?q=a+man")
        page.until("document.querySelectorAll('#results li').length === 6")
        assert page.until("!document.querySelector('#blur-note').hidden && document.querySelector('#blur-note').innerText")
        page.click("#results li:nth-child(2) .open")
        size = "(() => { const full = document.querySelector('#full'); return full.complete && full.naturalWidth; })()"
        page.until(f"{size} === 48")
        page.click("#whole")
        page.until(f"{size} === 200 && document.querySelector('#full').src.includes('/frame/')")
        page.until(
            "(() => { const box = document.querySelector('#full').getBoundingClientRect();"
            " return Math.abs(box.width / box.height - 200 / 160) < 0.02; })()"
        )
        assert page.run("document.querySelector('#whole').ariaPressed") == "true"
        page.picture(tmp_path / "frame.png")
        page.click("#why")  # explains the person
        page.until("document.querySelectorAll('#words li').length === 2")
        page.until(f"{size} === 48")
        page.click("#whole")
        page.until(f"{size} === 200 && document.querySelectorAll('#words li').length === 0")
        page.click("#next")
        page.until(f"{size} === 48")
        assert page.problems() == []
