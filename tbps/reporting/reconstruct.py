"""Pictures that MARS's decoder rebuilds from a quarter of their patches and a caption, for the report."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps.config.data import Pixels
from tbps.data.draws import generator_of
from tbps.data.pairs import EvaluationSet
from tbps.methods.albef.mars import MarsMethod
from tbps.reporting.reconstructions import Reconstruction
from tbps.reporting.shown_pairs import read_pairs, spread_queries
from tbps.text.captions import CaptionEncoder

GREY = 127


@torch.no_grad()
def reconstruct(
    method: MarsMethod,
    evaluation_set: EvaluationSet,
    encoder: CaptionEncoder,
    *,
    image_px: tuple[int, int],
    pixels: Pixels,
    number: int = 6,
) -> list[Reconstruction]:
    """The images of `number` queries spread over the split, masked and rebuilt; kept patches show what was given."""
    shown = read_pairs(evaluation_set, encoder, spread_queries(evaluation_set, number), image_px=image_px, pixels=pixels)
    num_patches = method.online.image_encoder.num_patches
    noise = [
        torch.rand(num_patches, generator=generator_of(seed=0, epoch=0, key=key, use="reconstruction"))
        for key in shown.image_keys
    ]
    method.eval()
    predicted_BNX, removed_BN = method.reconstruct(shown.images(method.device), shown.captions, torch.stack(noise))
    rebuilt_BHWC = _pictures(predicted_BNX.float().cpu(), method.online.image_encoder.grid, pixels)
    patch_px = method.online.image_encoder.patch_px
    mask_BHW1 = _over_pixels(removed_BN.cpu(), method.online.image_encoder.grid, patch_px)
    original_BHWC = shown.pixels_BCHW.permute(0, 2, 3, 1).numpy()
    return [
        Reconstruction(
            caption=text,
            original_HWC=original,
            masked_HWC=np.where(mask, GREY, original).astype(np.uint8),
            reconstruction_HWC=np.where(mask, rebuilt, original).astype(np.uint8),
        )
        for text, original, mask, rebuilt in zip(shown.texts, original_BHWC, mask_BHW1, rebuilt_BHWC, strict=True)
    ]


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
