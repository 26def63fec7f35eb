"""Make the views of a batch on the device: mirror, padded crop, normalise, erase. Label maps go along with the first.

Shapes: B pairs, C channels, H height, W width, V views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tbps.config.data import Pixels
from tbps.data.batch import Batch, HostBatch


def crop_padding_px(image_px: tuple[int, int]) -> int:
    """Zero border of the padded crop: 10 px at 384 rows (IRRA's and AGA's setting), in proportion at other sizes."""
    return max(1, round(10 * image_px[0] / 384))


def normalise_pixels(pixels_BCHW: Tensor, pixels: Pixels) -> Tensor:
    """uint8 -> float32 by mean and deviation, in the order of torchvision's ToTensor and Normalize: equal to the bit."""
    mean, std = (_channels(values, pixels_BCHW.device) for values in (pixels.mean, pixels.std))
    return pixels_BCHW.float().div_(255).sub_(mean).div_(std)


def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """(3, 1, 1) float32, filled on the device: a copy to a GPU would wait for it in every step."""
    return torch.stack([torch.full((1, 1), value, device=device) for value in values])


def make_views(
    host: HostBatch,
    device: torch.device,
    *,
    pixels: Pixels,
    group_pairs: int,
    first_group: int = 0,
    last_stage: bool = True,
) -> Batch:
    """The batch on `device`. Copies are asynchronous where the loader pinned its memory; captions stay on the host."""
    host = host.each_tensor(lambda tensor: tensor.to(device, non_blocking=True))
    views = [host.pixels_BCHW, host.pixels_BCHW if host.second_pixels_BCHW is None else host.second_pixels_BCHW]
    views = [_move(view, host, number) for number, view in enumerate(views[: host.flip_BV.shape[1]])]
    views = [normalise_pixels(view, pixels) for view in views]
    erased = []
    if host.erase_BV4 is not None:
        fill = _channels(pixels.erase, device)
        erased = [_inside(host.erase_BV4[:, number], view.shape[2:]) for number, view in enumerate(views)]
        views = [torch.where(erased_BHW[:, None], fill, view) for view, erased_BHW in zip(views, erased, strict=True)]
    maps = {name: _move(map_BHW[:, None], host, 0)[:, 0] for name, map_BHW in host.maps.items()}
    return Batch(
        image_BCHW=views[0],
        second_image_BCHW=views[1] if len(views) > 1 else None,
        own=host.own,
        paired=host.paired,
        replaced_B=host.replaced_B,
        identity_B=host.identity_B,
        group_pairs=group_pairs,
        epoch=host.epoch,
        reworded=host.reworded,
        prompts=host.prompts,
        first_group=first_group,
        last_stage=last_stage,
        fields={**host.fields, **maps},
        erased_BHW=erased[0] if erased else None,
    )


def _move(layer_BCHW: Tensor, host: HostBatch, view: int) -> Tensor:
    """What changes the place of pixels, as drawn for a view: mirrored, then cropped from a border of zeros."""
    layer_BCHW = _mirror(layer_BCHW, host.flip_BV[:, view])
    return layer_BCHW if host.shift_BV2 is None else _crop(layer_BCHW, host.shift_BV2[:, view])


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


def _inside(box_B4: Tensor, image_px: torch.Size) -> Tensor:
    """(B, H, W) bool: pixels inside of the box (top, left, height, width) of each image."""
    top, left, height, width = box_B4.T[..., None]
    row_H = torch.arange(image_px[0], device=box_B4.device)
    column_W = torch.arange(image_px[1], device=box_B4.device)
    inside_BH = (row_H >= top) & (row_H < top + height)
    inside_BW = (column_W >= left) & (column_W < left + width)
    return inside_BH[:, :, None] & inside_BW[:, None, :]
