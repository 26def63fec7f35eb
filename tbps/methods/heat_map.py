"""Weights over the patches of an image, drawn over it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEAT = np.array((255, 64, 0), np.float32)


def heated(image_HWC: NDArray[np.uint8], weight_hw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image in grey, red where weights are large: full red is the largest of the map, grey the smallest, and a map of
    equal weights. weight_hw: a grid of patches."""
    height, width = image_HWC.shape[:2]
    least, most = float(weight_hw.min()), float(weight_hw.max())
    differs = most - least > 1e-5 * most
    scaled = Image.fromarray(((weight_hw - least) / (most - least) if differs else 0 * weight_hw).astype(np.float32))
    heat_HW1 = np.asarray(scaled.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)[..., None]
    grey_HW1 = image_HWC.astype(np.float32).mean(2, keepdims=True)
    return (grey_HW1 * (1 - 0.7 * heat_HW1) + HEAT * (0.7 * heat_HW1)).round().astype(np.uint8)
