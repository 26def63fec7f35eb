"""The pixels that a row of an index stands for, read again from its file: for re-ranking, explaining and showing it."""

from __future__ import annotations

import hashlib
import os

import numpy as np
from numpy.typing import NDArray

from tbps.search.index import Picture
from tbps.search.pictures import Pictures
from tbps.search.preparing import cut_out, upright_pixels
from tbps.search.video import read_frame

HAS_CHANGED = "its file has changed since it was indexed"


def same_content(pictures: Pictures, picture: Picture) -> bytes:
    """The file of a picture. ValueError: it is another one than was indexed, leads out of the root, or is gone."""
    try:
        content = pictures.read(picture.path)
    except OSError as error:
        raise ValueError("its file cannot be read") from error
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        raise ValueError(HAS_CHANGED)
    return content


def frame_of(pictures: Pictures, picture: Picture) -> NDArray[np.uint8]:
    """(height, width, 3) of the whole frame that a picture is, or is a part of, upright. ValueError as of `same_content`.

    A video is known by its size and time of change: reading all of it for a frame would take too long.
    """
    if picture.offset_ms is None:
        return upright_pixels(same_content(pictures, picture))[0]
    with pictures.open(picture.path) as file:
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (picture.size, picture.stamp):
            raise ValueError(HAS_CHANGED)
        return read_frame(file, picture.offset_ms)


def pixels_of(pictures: Pictures, picture: Picture) -> NDArray[np.uint8]:
    """(height, width, 3) of a picture: the person's box, where it has one. ValueError as of `same_content`."""
    return cut_out(frame_of(pictures, picture), picture.box)
