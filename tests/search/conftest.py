"""A small run of a method with a matcher, of one without, and pictures of the synthetic world, made once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from tbps.finished import load_model
from tbps.search.model import SearchModel
from tbps.search.people import Detector, load_detector

if TYPE_CHECKING:
    from small_world import World

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))  # for the small world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Do not write into it."""
    from small_world import shared_world

    return shared_world(tmp_path_factory)


@pytest.fixture(scope="session")
def matching_run(world: World) -> Path:
    """ALBEF after a step, which re-ranks."""
    from small_world import trained

    return trained(world, "albef")


@pytest.fixture(scope="session")
def plain_run(world: World) -> Path:
    """CLIP after a step, which does not."""
    from small_world import trained

    return trained(world, "clip")


@pytest.fixture(scope="session")
def model(matching_run: Path) -> SearchModel:
    """Of the matching run."""
    return load_model(matching_run)


@pytest.fixture(scope="session")
def people(world: World) -> list[Path]:
    """Pictures of synthetic people, each of one."""
    return sorted((world.cuhk_pedes / "imgs").rglob("*.jpg"))[:40]


@pytest.fixture(scope="session")
def detector(people: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """Finds them in frames of `toy_detector.make_frame`."""
    from toy_detector import NAME, write_detector

    path = tmp_path_factory.mktemp("detector") / "detector.pth"
    write_detector(path, people)
    return load_detector(path, name=NAME, score=0.7, height_px=48, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def frames(people: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of nine frames with nobody to four people. Do not write into it."""
    from toy_detector import make_frame

    folder = tmp_path_factory.mktemp("frames")
    for number in range(9):
        Image.fromarray(make_frame(people, 100 + number, number % 3 * 2)[0]).save(folder / f"{number}.png")
    return folder
