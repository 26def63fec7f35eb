"""With --blur-faces the upper part of each person, and in frames all around, is a few colours in whatever is given out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asker import client_of
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from tbps.search.index import Index
from tbps.search.model import SearchModel
from tbps.search.searcher import Searcher
from tbps.serving.blur import with_head_blurred, with_others_blurred
from tbps.serving.desk import Desk

pytestmark = pytest.mark.xdist_group("serving")  # trained once


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def shuffled(pixels_HWC: NDArray[np.uint8], cell_px: int) -> NDArray[np.uint8]:
    """With the pixels inside of each cell in another order."""
    height, width = pixels_HWC.shape[:2]
    cells = pixels_HWC.reshape(height // cell_px, cell_px, width // cell_px, cell_px, 3).transpose(0, 2, 1, 3, 4)
    mixed = np.random.default_rng(1).permuted(cells.reshape(height // cell_px, width // cell_px, -1, 3), axis=2)
    again = mixed.reshape(height // cell_px, width // cell_px, cell_px, cell_px, 3).transpose(0, 2, 1, 3, 4)
    return again.reshape(height, width, 3)


@pytest.mark.parametrize(
    ("size_px", "blurred_px"),
    [((48, 288), 72), ((48, 144), 36), ((60, 60), 45), ((48, 36), 36), ((90, 60), 60), ((48, 12), 12)],
)
def test_the_upper_part_is_blurred_and_nothing_else(size_px: tuple[int, int], blurred_px: int) -> None:
    pixels_HWC = noise(*size_px[::-1])
    blurred_HWC = np.asarray(with_head_blurred(Image.fromarray(pixels_HWC)))
    assert np.array_equal(blurred_HWC[blurred_px:], pixels_HWC[blurred_px:])
    assert blurred_HWC[:blurred_px].std() < 0.35 * pixels_HWC[:blurred_px].std()
    assert np.abs(blurred_HWC[blurred_px - 1] - pixels_HWC[blurred_px - 1].astype(float)).mean() > 30, "to its last line"


def test_nothing_is_left_but_the_means_of_cells() -> None:
    head_HWC, body_HWC = noise(48, 48), noise(144, 48, seed=2)
    mixed_HWC = shuffled(head_HWC, 8)
    assert not np.array_equal(mixed_HWC, head_HWC)
    one, other = (
        np.asarray(with_head_blurred(Image.fromarray(np.concatenate([each, body_HWC])))) for each in (head_HWC, mixed_HWC)
    )
    assert np.abs(one[:48].astype(int) - other[:48]).max() <= 1, "but for rounding"


def test_of_a_frame_the_person_is_left_without_the_head() -> None:
    frame_HWC = noise(96, 144)
    box = (48, 0, 96, 96)
    blurred_HWC = np.asarray(with_others_blurred(Image.fromarray(frame_HWC), box))
    assert np.array_equal(blurred_HWC[36:, 48:96], frame_HWC[36:, 48:96])
    around = [blurred_HWC[:, :48], blurred_HWC[:, 96:], blurred_HWC[:36, 48:96]]
    assert all(part.std() < 30 for part in around)


@pytest.fixture
def blurring(index: Path, model: SearchModel, tmp_path: Path) -> Iterator[TestClient]:
    desk = Desk(Searcher(Index.open(index), model), blurs=True)
    yield client_of(desk, log=tmp_path / "access.log")
    desk.close()


def detail(content: bytes) -> tuple[float, float]:
    """How much neighbours differ in the upper quarter and in the lower half."""
    with Image.open(io.BytesIO(content)) as image:
        pixels_HWC = np.asarray(image.convert("RGB"), dtype=np.float64)
    steps_HWC = np.abs(np.diff(pixels_HWC, axis=1))
    return float(steps_HWC[: len(steps_HWC) // 4].mean()), float(steps_HWC[len(steps_HWC) // 2 :].mean())


def test_whatever_is_given_out_is_blurred(blurring: TestClient, client: TestClient) -> None:
    assert blurring.get("/api/about").json()["blurs"] is True and client.get("/api/about").json()["blurs"] is False
    upper, lower = [], []
    for row in range(8):
        for place in ("thumbnail", "picture"):
            answer = blurring.get(f"/{place}/{row}")
            assert answer.headers["content-type"] == "image/jpeg" and b"Exif" not in answer.content
            before, after = detail(client.get(f"/{place}/{row}").content), detail(answer.content)
            upper.append(after[0] / before[0])
            lower.append(after[1] / before[1])
        assert blurring.get(f"/frame/{row}").status_code == 404, "it was not cut out of one"
    assert max(upper) < 0.5 and min(lower) > 0.7
    query = {"q": "a woman in a red coat", "rerank": 8}
    hits = [[hit["id"] for hit in each.get("/api/search", params=query).json()["hits"]] for each in (blurring, client)]
    assert hits[0] == hits[1], "what is searched is not changed"


def test_whole_frames_of_videos_are_refused(index: Path, model: SearchModel) -> None:
    opened = Index.open(index)
    searcher = Searcher(Index(index, replace(opened.manifest, video_every_s=2.0)), model)
    with pytest.raises(
        ValueError, match=r"holds whole frames of videos, expected people cut out of them; index them with --det"
    ):
        Desk(searcher, blurs=True)
    Desk(searcher).close()
