"""Make both views of a batch on the device: mirror, padded crop, normalise, erase.

Shapes: B pairs, H height, W width, V = 2 views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tbps.data.batch import Batch, HostBatch

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel statistics of openai/CLIP's preprocessing, which ALBEF, RaSa, MARS, AGA and IRRA all use."""


def crop_padding_px(image_px: tuple[int, int]) -> int:
    """Zero border of the padded crop: 10 px at 384 rows (IRRA's and AGA's setting), in proportion at other sizes."""
    return max(1, round(10 * image_px[0] / 384))


def normalise_pixels(pixels_BCHW: Tensor) -> Tensor:
    """uint8 -> float32 with CLIP's mean and std, in the order of torchvision's ToTensor and Normalize: equal to the bit."""
    mean = torch.tensor(CLIP_MEAN, device=pixels_BCHW.device).view(3, 1, 1)
    std = torch.tensor(CLIP_STD, device=pixels_BCHW.device).view(3, 1, 1)
    return pixels_BCHW.float().div_(255).sub_(mean).div_(std)


def make_views(
    host: HostBatch, device: torch.device, *, group_pairs: int, first_group: int = 0, last_stage: bool = True
) -> Batch:
    """The batch on `device`. Copies are asynchronous where the loader pinned its memory; captions stay on the host."""
    pixels = host.pixels_BCHW.to(device, non_blocking=True)
    second = host.second_pixels_BCHW
    views = [pixels, pixels if second is None else second.to(device, non_blocking=True)]
    flip_B2 = host.flip_B2.to(device, non_blocking=True)
    views = [_mirror(view, flip_B2[:, number]) for number, view in enumerate(views)]
    if host.shift_B22 is not None:
        shift_B22 = host.shift_B22.to(device, non_blocking=True)
        views = [_crop(view, shift_B22[:, number]) for number, view in enumerate(views)]
    views = [normalise_pixels(view) for view in views]
    if host.erase_B24 is not None:
        erase_B24 = host.erase_B24.to(device, non_blocking=True)
        views = [_erase(view, erase_B24[:, number]) for number, view in enumerate(views)]
    return Batch(
        image_BCHW=views[0],
        second_image_BCHW=views[1],
        own=host.own,
        paired=host.paired,
        replaced_B=host.replaced_B.to(device, non_blocking=True),
        identity_B=host.identity_B.to(device, non_blocking=True),
        group_pairs=group_pairs,
        epoch=host.epoch,
        first_group=first_group,
        last_stage=last_stage,
    )


def _mirror(pixels_BCHW: Tensor, flip_B: Tensor) -> Tensor:
    return torch.where(flip_B[:, None, None, None], pixels_BCHW.flip(-1), pixels_BCHW)


def _crop(pixels_BCHW: Tensor, corner_B2: Tensor) -> Tensor:
    """Cut (H, W) at `corner_B2` (row, column) from the image with a zero border, as torchvision's Pad and RandomCrop."""
    num_pairs, _, height, width = pixels_BCHW.shape
    border = crop_padding_px((height, width))
    padded = torch.nn.functional.pad(pixels_BCHW, (border, border, border, border))
    row_BH = corner_B2[:, :1] + torch.arange(height, device=padded.device)
    column_BW = corner_B2[:, 1:] + torch.arange(width, device=padded.device)
    pair_B11 = torch.arange(num_pairs, device=padded.device)[:, None, None]
    cropped_BHWC = padded.permute(0, 2, 3, 1)[pair_B11, row_BH[:, :, None], column_BW[:, None, :]]
    return cropped_BHWC.permute(0, 3, 1, 2).contiguous()


def _erase(image_BCHW: Tensor, box_B4: Tensor) -> Tensor:
    """Fill the box (top, left, height, width) with CLIP's mean: after normalisation, as IRRA's and AGA's code does."""
    top, left, height, width = box_B4.T[..., None]
    row_H = torch.arange(image_BCHW.shape[2], device=image_BCHW.device)
    column_W = torch.arange(image_BCHW.shape[3], device=image_BCHW.device)
    inside_BH = (row_H >= top) & (row_H < top + height)
    inside_BW = (column_W >= left) & (column_W < left + width)
    inside_BHW = inside_BH[:, :, None] & inside_BW[:, None, :]
    fill = torch.tensor(CLIP_MEAN, device=image_BCHW.device).view(3, 1, 1)
    return torch.where(inside_BHW[:, None], fill, image_BCHW)
