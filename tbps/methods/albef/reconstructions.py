"""Pictures that MARS's decoder rebuilds from a quarter of their patches and a caption, for the report.

Shapes: B images of N patches of p * p pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps.config.data import Pixels
from tbps.data.draws import generator_of
from tbps.data.shown_pairs import ShownPairs, ShownSplit
from tbps.methods.exhibit import Card, Exhibit, Part, Picture, Pictures

GREY = 127
HEIGHT_PX = 224
NUM_IMAGES = 6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reconstruction:
    """One image with its caption; all three pictures (height, width, 3) uint8 RGB."""

    caption: str
    original_HWC: NDArray[np.uint8]
    masked_HWC: NDArray[np.uint8]
    reconstruction_HWC: NDArray[np.uint8]


def reconstruct(
    shown: ShownSplit,
    rebuild: Callable[[ShownPairs, Tensor], tuple[Tensor, Tensor]],
    *,
    grid: tuple[int, int],
    patch_px: int,
) -> list[Reconstruction]:
    """The images of some queries spread over the split, masked and rebuilt; kept patches show what was given.

    rebuild: from pairs and noise (B, N), by which patches are chosen, to predicted pixels (B, N, p * p * 3), normalised as
    the input, and removed patches (B, N);  grid: rows and columns of patches.
    """
    pairs = shown.read(shown.spread(NUM_IMAGES))
    noise = [
        torch.rand(grid[0] * grid[1], generator=generator_of(seed=0, epoch=0, key=key, use="reconstruction"))
        for key in pairs.image_keys
    ]
    predicted_BNX, removed_BN = rebuild(pairs, torch.stack(noise))
    rebuilt_BHWC = _pictures(predicted_BNX.float().cpu(), grid, shown.pixels)
    mask_BHW1 = _over_pixels(removed_BN.cpu(), grid, patch_px)
    original_BHWC = pairs.pixels_BCHW.permute(0, 2, 3, 1).numpy()
    return [
        Reconstruction(
            caption=text,
            original_HWC=original,
            masked_HWC=np.where(mask, GREY, original).astype(np.uint8),
            reconstruction_HWC=np.where(mask, rebuilt, original).astype(np.uint8),
        )
        for text, original, mask, rebuilt in zip(pairs.texts, original_BHWC, mask_BHW1, rebuilt_BHWC, strict=True)
    ]


def show_reconstructions(reconstructions: Sequence[Reconstruction]) -> Exhibit:
    """Each caption with its three pictures."""
    return Exhibit(title="Masked image modelling", parts=(Part(cards=tuple(map(_card, reconstructions))),))


def _card(item: Reconstruction) -> Card:
    named = (("original", item.original_HWC), ("masked", item.masked_HWC), ("reconstruction", item.reconstruction_HWC))
    pictures = tuple(Picture(pixels_HWC=pixels, described=name, title=name) for name, pixels in named)
    return Card(title=item.caption, cells=(Pictures(pictures=pictures, height_px=HEIGHT_PX),))


def _pictures(predicted_BNX: Tensor, grid: tuple[int, int], pixels: Pixels) -> NDArray[np.uint8]:
    """(B, N, p * p * 3) normalised to (B, H, W, 3) bytes."""
    side = round((predicted_BNX.shape[-1] // 3) ** 0.5)
    patch = predicted_BNX.view(-1, *grid, side, side, 3).permute(0, 1, 3, 2, 4, 5)
    image_BHWC = patch.reshape(len(predicted_BNX), grid[0] * side, grid[1] * side, 3)
    scaled = (image_BHWC * torch.tensor(pixels.std) + torch.tensor(pixels.mean)) * 255
    return scaled.round().clamp(0, 255).to(torch.uint8).numpy()


def _over_pixels(removed_BN: Tensor, grid: tuple[int, int], patch_px: int) -> NDArray[np.bool_]:
    """(B, N) to (B, H, W, 1): which pixels were removed."""
    mask_BHW = removed_BN.view(-1, *grid).repeat_interleave(patch_px, 1).repeat_interleave(patch_px, 2)
    return (mask_BHW > 0)[..., None].numpy()
