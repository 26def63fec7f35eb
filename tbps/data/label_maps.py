"""Label maps: a whole number for each pixel of an image, such as which piece of clothing it shows.

The parsing map of an image lies below the data set's folder in `parsing/<label set>`, at the image's own path as annotated
but for the ending: `parsing/atr/cam_a/0001.png` of `cam_a/0001.jpg`. It is a PNG of mode P or L, as large as the image,
whose pixel is the label. Maps that we write say in a text chunk of which image file they are, by its sha256.

PyTorch is imported by what hands tensors on alone: processes that draw a synthetic world, or check maps, do without.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tbps.config.data import LabelSetName
from tbps.data.images import decode
from tbps.data.label_sets import LABEL_SETS, LabelSet

if TYPE_CHECKING:
    from torch import Tensor

PARSING = "parsing"
"""Folder of all parsing maps of a data set, below its own."""
IMAGE_DIGEST = "image-sha256"
"""Text chunk of a map that says of which image file it is."""
ADVICE = "tbps parse writes the maps that are missing"


def map_path(image_path: str, label_set: LabelSetName) -> PurePosixPath:
    """Where the map of `image_path` (as written in the annotation file) lies below the data set's folder."""
    return PurePosixPath(PARSING) / label_set / PurePosixPath(image_path).with_suffix(".png")


def encode_map(labels_HW: NDArray[np.uint8], label_set: LabelSetName, *, image_bytes: bytes) -> bytes:
    """A palette PNG of the map of the image file `image_bytes`; the same labels give the same bytes."""
    indexed = Image.frombytes("P", labels_HW.shape[::-1], np.ascontiguousarray(labels_HW, dtype=np.uint8).tobytes())
    indexed.putpalette(_palette(len(LABEL_SETS[label_set])))
    text, file = PngInfo(), io.BytesIO()
    text.add_text(IMAGE_DIGEST, hashlib.sha256(image_bytes).hexdigest())
    indexed.save(file, format="PNG", compress_level=4, pnginfo=text)
    return file.getvalue()


@cache
def _palette(num_labels: int) -> bytes:
    """The PASCAL VOC colour of each label: the bits of the label dealt out to red, green and blue."""
    palette: list[int] = []
    for label in range(num_labels):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
        palette += channels
    return bytes(palette)


def check_map(file_bytes: bytes, label_set: LabelSet, *, image_bytes: bytes) -> None:
    """ValueError: the file is no map of the set as `decode_map` reads it, or not of this image file, by size or digest."""
    labels_HW = _labels(file_bytes, label_set)
    try:
        rows, columns, _ = decode(image_bytes, key="").shape
    except ValueError:  # of the image, which whoever uses it says
        rows, columns = labels_HW.shape
    check_size(labels_HW, (rows, columns))
    with Image.open(io.BytesIO(file_bytes)) as labels:
        made_of = str(labels.info.get(IMAGE_DIGEST, ""))
    if made_of and made_of != (found := hashlib.sha256(image_bytes).hexdigest()):
        raise ValueError(
            f"its label map is of an image with sha256 {made_of[:12]}, expected {found[:12]} as its image has; one of them"
            " was exchanged: tbps parse writes the map again"
        )


def check_size(labels_HW: Tensor | NDArray[np.uint8], image_size: tuple[int, int]) -> None:
    """ValueError: the map is not as large as its image, (height, width)."""
    if labels_HW.shape != image_size:
        raise ValueError(
            f"its label map is {' x '.join(map(str, labels_HW.shape))}, expected {image_size[0]} x {image_size[1]} as its"
            " image; make it again"
        )


def decode_map(file_bytes: bytes, label_set: LabelSet) -> Tensor:
    """(height, width) uint8 labels. ValueError: no image, one of colours, or a label that is not of the set."""
    import torch

    return torch.from_numpy(_labels(file_bytes, label_set))


def _labels(file_bytes: bytes, label_set: LabelSet) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(file_bytes)) as image:
            mode, labels_HW = image.mode, np.array(image)
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise ValueError(f"its label map cannot be decoded ({type(error).__name__}); write it again") from error
    if mode not in ("P", "L"):
        raise ValueError(f"its label map is of mode {mode}, expected P or L, whose pixels are labels; write it again")
    if (highest := int(labels_HW.max(initial=0))) >= len(label_set):
        raise ValueError(
            f"its label map holds label {highest}, expected 0 to {len(label_set) - 1} of {label_set.title}; write it again,"
            " or choose the label set that it is of"
        )
    return labels_HW


def resize_map(labels_HW: Tensor, *, image_px: tuple[int, int], box: tuple[int, int, int, int] | None = None) -> Tensor:
    """Squash to `image_px` (height, width), each pixel with the nearest label; of `box` (left, top, right, bottom) alone."""
    import torch

    resized = Image.fromarray(labels_HW.numpy()).crop(box).resize(image_px[::-1], Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized))


def swap_sides(labels_HW: Tensor, sides: tuple[tuple[int, int], ...]) -> Tensor:
    """The map with the labels of each pair exchanged, as goes with mirroring."""
    import torch

    table = torch.arange(256, dtype=torch.uint8)
    for left, right in sides:
        table[left], table[right] = right, left
    return table[labels_HW.long()]
