"""Masked autoencoding of the image with the caption's help.

Shapes: B images, N patches, K kept patches, p patch side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def keep_patches(noise_BN: NDArray[np.float32], *, mask_ratio: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The int(N (1 - mask_ratio)) patches of smallest noise (B, K), and each patch's place in [kept, removed] (B, N)."""
    order_BN = np.argsort(noise_BN, axis=1, kind="stable")
    return order_BN[:, : int(noise_BN.shape[1] * (1 - mask_ratio))], np.argsort(order_BN, axis=1, kind="stable")


def patch_pixels(image_BCHW: Tensor, *, patch_px: int) -> Tensor:
    """(B, 3, H, W) to (B, N, p * p * 3): patches in raster order, each row by row, column by column, channel fastest."""
    patch = image_BCHW.unflatten(3, (-1, patch_px)).unflatten(2, (-1, patch_px))
    return patch.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def reconstruction_loss(predicted_BNX: Tensor, pixel_BNX: Tensor, removed_BN: Tensor) -> Tensor:
    """Mean squared error of a patch's values, mean over removed patches (as many in each image, so over groups too).

    predicted_BNX, pixel_BNX (B, N, p * p * 3): the normalised input pixels, not normalised per patch; removed_BN (B, N)
    1 or 0. Source: MARS (arXiv 2407.04287), Eq. 16. Differs as the official code: mean over a patch's values, where Eq. 16
    sums them.
    """
    error_BN = (predicted_BNX.float() - pixel_BNX).square().mean(-1)
    return (error_BN * removed_BN).sum() / removed_BN.sum()
