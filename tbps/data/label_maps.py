"""Label maps: a whole number for each pixel of an image, such as which piece of clothing it shows.

The parsing map of an image lies below the data set's folder in `parsing`, at the image's own path as annotated but for the
ending: `parsing/cam_a/0001.png` of `cam_a/0001.jpg`. It is a PNG of mode P or L, as large as the image, whose pixel is the
label of ATR. The synthetic world writes such maps, and SCHP's ATR model does.
"""

from __future__ import annotations

import io
import warnings
from pathlib import PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ATR_LABELS = (
    "background",
    "hat",
    "hair",
    "sunglasses",
    "upper-clothes",
    "skirt",
    "pants",
    "dress",
    "belt",
    "left-shoe",
    "right-shoe",
    "face",
    "left-leg",
    "right-leg",
    "left-arm",
    "right-arm",
    "bag",
    "scarf",
)
"""Names of the labels, in the order of SCHP's ATR model. Left and right are the person's own."""
ATR_SIDES = ((9, 10), (12, 13), (14, 15))
"""Labels of ATR that change places in a mirrored image, where a person's left is the right."""


def parsing_path(image_path: str) -> PurePosixPath:
    """Where the map of `image_path` (as written in the annotation file) lies below the data set's folder."""
    return PurePosixPath("parsing") / PurePosixPath(image_path).with_suffix(".png")


def decode_map(file_bytes: bytes, *, num_labels: int) -> Tensor:
    """(height, width) uint8 labels. ValueError: no image, one of colours, or a label that is not below `num_labels`."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(file_bytes)) as image:
            mode, labels_HW = image.mode, np.array(image)
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise ValueError(f"its label map cannot be decoded ({type(error).__name__}); write it again") from error
    if mode not in ("P", "L"):
        raise ValueError(f"its label map is of mode {mode}, expected P or L, whose pixels are labels; write it again")
    if (highest := int(labels_HW.max(initial=0))) >= num_labels:
        raise ValueError(f"its label map holds label {highest}, expected 0 to {num_labels - 1}; write it again")
    return torch.from_numpy(labels_HW)


def resize_map(labels_HW: Tensor, *, image_px: tuple[int, int], box: tuple[int, int, int, int] | None = None) -> Tensor:
    """Squash to `image_px` (height, width), each pixel with the nearest label; of `box` (left, top, right, bottom) alone."""
    resized = Image.fromarray(labels_HW.numpy()).crop(box).resize(image_px[::-1], Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized))


def swap_sides(labels_HW: Tensor, sides: tuple[tuple[int, int], ...]) -> Tensor:
    """The map with the labels of each pair exchanged, as goes with mirroring."""
    table = torch.arange(256, dtype=torch.uint8)
    for left, right in sides:
        table[left], table[right] = right, left
    return table[labels_HW.long()]
