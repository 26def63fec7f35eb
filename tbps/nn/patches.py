"""Images cut into patches that do not overlap, each embedded by one linear map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def embed_patches(layer: nn.Conv2d, image_BCHW: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H / p, W / p, D): `layer` at each patch of p x p pixels; where its strides overlap, so many more.

    On a GPU as one product: cuDNN's convolution of three channels in half precision does not use the tensor cores.
    """
    if image_BCHW.device.type == "cpu" or layer.stride != layer.kernel_size:
        return layer(image_BCHW).permute(0, 2, 3, 1)
    return as_product(layer, image_BCHW)


def as_product(layer: nn.Conv2d, image_BCHW: Tensor) -> Tensor:
    """`embed_patches` as one product, of a layer whose stride is its kernel's size."""
    height, width = layer.kernel_size
    rows, columns = image_BCHW.shape[2] // height, image_BCHW.shape[3] // width
    patch = image_BCHW[:, :, : rows * height, : columns * width].unflatten(2, (rows, height)).unflatten(4, (columns, width))
    return F.linear(patch.permute(0, 2, 4, 1, 3, 5).flatten(3), layer.weight.flatten(1), layer.bias)
