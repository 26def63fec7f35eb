"""The world of the end-to-end tests, made once per session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_world import World, shared_world

sys.path.append(str(Path(__file__).parents[1] / "data"))  # for the hostile server


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Do not write into it."""
    return shared_world(tmp_path_factory)
