"""Small JPEG copies of images, as base64 text that a JSON file or a page can hold."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 88


def thumbnail(image_HWC: NDArray[np.uint8], *, height_px: int) -> str:
    """base64 of a JPEG of `height_px` rows, shape kept; never enlarged. image_HWC: (height, width, 3) RGB."""
    height, width = image_HWC.shape[:2]
    rows = min(height, height_px)
    image = Image.fromarray(image_HWC).resize((max(1, round(width * rows / height)), rows), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii")
