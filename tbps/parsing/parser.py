"""What `tbps parse` asks of whoever labels the pixels of images of people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tbps.data.parsing_cache import Manifest


class Parser(Protocol):
    """A segmentation model, or a folder of maps that another tool has made."""

    manifest: Manifest
    """Its label set, its name and its digest."""

    def prepare(self, image_path: str, image_HWC: NDArray[np.uint8]) -> Any:
        """What `parse` takes of an image; threads call it. ValueError says in one sentence what is wrong with it."""

    def parse(self, prepared: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        """The map of each image, (height, width) as `sizes` say, with the labels of its label set."""
