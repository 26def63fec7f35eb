"""A small world with parsing maps, and an encoder of captions."""

from pathlib import Path

import pytest
from mapped_pairs import IMAGE_PX
from tiny_folder import make_encoder

from tbps.synthetic.world import write_world
from tbps.text.captions import CaptionEncoder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In RSTPReid's format. Do not write into it."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, benchmark="rstpreid", num_identities=24, seed=3, workers=1, image_px=IMAGE_PX)
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> CaptionEncoder:
    """Of word pieces, learned from the captions of the tiny folders."""
    return make_encoder(tmp_path_factory.mktemp("vocabulary"))
