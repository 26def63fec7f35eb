"""A small world without maps, and a parser for it."""

from pathlib import Path

import pytest
from tiny_parsers import IMAGE_PX, write_model

from tbps.synthetic.world import write_world


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny-segformer")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_world(
        tmp_path / "world", benchmark="rstpreid", num_identities=24, seed=3, workers=1, image_px=IMAGE_PX, parsing=False
    )
    return tmp_path / "world"
