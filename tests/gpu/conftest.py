"""Tests that need a CUDA GPU; elsewhere they are skipped, with a word. `pytest tests/gpu -n 8` takes two minutes on one.

Those of `rehearsal/` need none and run everywhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent / "benchmarks"), str(TESTS / "end_to_end")]

from small_world import World, shared_world  # noqa: E402

HERE = Path(__file__).parent
REHEARSAL = HERE / "rehearsal"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder but the rehearsal."""
    for item in items:
        if HERE in item.path.parents and REHEARSAL not in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Do not write into it."""
    return shared_world(tmp_path_factory)
