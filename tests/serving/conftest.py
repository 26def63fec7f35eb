"""A run of a method with a matcher, an index of pictures with hostile names, and the application on it."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tbps.finished import load_model
from tbps.search.index import Index
from tbps.search.model import SearchModel
from tbps.search.searcher import Searcher
from tbps.serving.desk import Desk

if TYPE_CHECKING:
    from small_world import World
    from starlette.testclient import TestClient

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("end_to_end", "search")]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Do not write into it."""
    from small_world import shared_world

    return shared_world(tmp_path_factory)


@pytest.fixture(scope="session")
def model(world: World) -> SearchModel:
    """ALBEF after a step."""
    from small_world import trained

    return load_model(trained(world, "albef"))


@pytest.fixture(scope="session")
def index(world: World, model: SearchModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of thirty pictures of two cameras, a day after another, and of as many as there are hostile names. Do not write."""
    from hostile import HOSTILE
    from indexing import bring_up_to_date, copy_pictures

    folder = tmp_path_factory.mktemp("served") / "pictures"
    files = copy_pictures(world.cuhk_pedes, folder, number=30 + len(HOSTILE))
    for number, file in enumerate(files):
        camera = folder / f"cam_{number % 2}"
        camera.mkdir(exist_ok=True)
        name = file.name if number < 30 else f"{HOSTILE[number - 30]}.jpg"
        file.rename(camera / name)
        taken = datetime(2024, 1, 1 + number % 28, 12).timestamp()
        os.utime(camera / name, (taken, taken))
    bring_up_to_date(folder, folder.parent / "index", model)
    return folder.parent / "index"


@pytest.fixture(scope="module")
def desk(index: Path, model: SearchModel) -> Desk:
    return Desk(Searcher(Index.open(index), model))


@pytest.fixture
def client(desk: Desk, tmp_path: Path) -> TestClient:
    from asker import client_of

    return client_of(desk, log=tmp_path / "access.log")
