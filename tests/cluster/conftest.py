"""A real Slurm for the tests of this folder, and jobs on it. Skips, saying what is missing, where Slurm is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_jobs import Cluster

from launch.testbed import PACKAGES, Testbed, missing_programs

for folder in ("end_to_end", "parsing"):
    if (place := str(Path(__file__).parents[1] / folder)) not in sys.path:
        sys.path.append(place)

from small_world import World, shared_world  # noqa: E402


@pytest.fixture(scope="session")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    if missing := missing_programs():
        pytest.skip(f"Slurm is not installed ({', '.join(missing)} missing): apt-get install {PACKAGES}")
    testbed = Testbed(tmp_path_factory.mktemp("slurm"))
    try:
        testbed.start()
        yield testbed
    finally:
        testbed.stop()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Do not write into it."""
    return shared_world(tmp_path_factory)


@pytest.fixture
def cluster(testbed: Testbed) -> Iterator[Cluster]:
    """All nodes up and empty, before and after."""
    testbed.start()
    cluster = Cluster(testbed)
    yield cluster
    cluster.cancel_all()
