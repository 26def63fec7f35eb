"""The world of the end-to-end tests, made once per session (and per worker of pytest-xdist: it takes two seconds)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_world import World, make_world

sys.path.append(str(Path(__file__).parents[1] / "data"))  # for the hostile server


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Do not write into it."""
    return make_world(tmp_path_factory.mktemp("world"))
