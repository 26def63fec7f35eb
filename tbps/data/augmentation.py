"""Random choices of the image pipelines, and the operations that are made on the host.

Mirroring, padded crops and erasing are only drawn here (`tbps.data.views` makes them on the device); ALBEF's resized crop
and operations, which change pixels in ways that do not batch, are made here with PIL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from tbps.config.data import Augmentation, Interpolation
from tbps.data.images import RESAMPLING, resize
from tbps.data.label_maps import resize_map
from tbps.data.views import crop_padding_px

Box = tuple[int, int, int, int]
"""Top, left, height, width."""

ERASE_PROBABILITY = 0.5
ERASE_AREA = (0.02, 0.4)
ERASE_RATIO = (0.3, 3.3)
"""IRRA's code: torchvision's RandomErasing(scale=(0.02, 0.4)) with its other defaults."""

CROP_AREA = (0.5, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
"""ALBEF's code: RandomResizedCrop(scale=(0.5, 1.0)) with torchvision's default ratio."""

NUM_OPERATIONS = 2
OPERATION_PROBABILITY = 0.5
LEVEL = 0.7
"""ALBEF's code: RandomAugment(2, 7): two operations, each made with 0.5, at level 7 of 10."""
GREY = (128, 128, 128)
TRIES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewDraws:
    """How the views of one pair are made on the device."""

    flip: tuple[bool, ...]
    corner: tuple[tuple[int, int], ...] | None
    """Row and column of the crop in the padded image, per view; None = no crop."""
    erase: tuple[Box, ...] | None
    """Erased box per view, height 0 = none; None = no erasing."""


def uniforms(generator: torch.Generator) -> Iterator[float]:
    """Endless numbers in [0, 1)."""
    while True:
        yield from torch.rand(32, generator=generator, dtype=torch.float64).tolist()


def draw_views(
    augmentations: Sequence[Augmentation], *, num_views: int, image_px: tuple[int, int], uniform: Iterator[float]
) -> ViewDraws:
    """Draw the views independently of each other."""
    views = range(num_views)
    places = 2 * crop_padding_px(image_px) + 1
    return ViewDraws(
        flip=tuple("flip" in augmentations and next(uniform) < 0.5 for _ in views),
        corner=tuple((int(next(uniform) * places), int(next(uniform) * places)) for _ in views)
        if "pad-crop" in augmentations
        else None,
        erase=tuple(_draw_erase(image_px, uniform) for _ in views) if "erase" in augmentations else None,
    )


def _draw_erase(image_px: tuple[int, int], uniform: Iterator[float]) -> Box:
    if next(uniform) >= ERASE_PROBABILITY:
        return (0, 0, 0, 0)
    box = _draw_box(image_px, area=ERASE_AREA, ratio=ERASE_RATIO, uniform=uniform)
    # torchvision takes only boxes smaller than the image in both directions.
    return box if box and box[2] < image_px[0] and box[3] < image_px[1] else (0, 0, 0, 0)


def _draw_box(
    image_px: tuple[int, int], *, area: tuple[float, float], ratio: tuple[float, float], uniform: Iterator[float]
) -> Box | None:
    """A box with area uniform in `area` (share of the image) and log height/width uniform in log `ratio`; None = no fit."""
    rows, columns = image_px
    for _ in range(TRIES):
        pixels = rows * columns * (area[0] + (area[1] - area[0]) * next(uniform))
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + (high - low) * next(uniform))
        height, width = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < height <= rows and 0 < width <= columns:
            top, left = int(next(uniform) * (rows - height + 1)), int(next(uniform) * (columns - width + 1))
            return top, left, height, width
    return None


def change_on_host(
    image_HWC: NDArray[np.uint8],
    augmentations: Sequence[Augmentation],
    *,
    image_px: tuple[int, int],
    interpolation: Interpolation,
    uniform: Iterator[float],
    maps: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """One view with what is made before mirroring: resized crop, then random operations; (3, height, width) uint8.

    maps: label maps of the image, (height, width) as it; they are cropped, resized and moved with it, by nearest pixels.
    ALBEF mirrors between crop and operations. Here it comes later, on the device, which changes nothing: every operation is
    as likely as its mirror image.
    """
    box = None
    if "resized-crop" in augmentations:
        box = _draw_crop((image_HWC.shape[0], image_HWC.shape[1]), uniform)
        image = Image.fromarray(image_HWC).crop(box).resize(image_px[::-1], RESAMPLING[interpolation])
    else:
        resized_CHW = resize(image_HWC, image_px=image_px, interpolation=interpolation)
        image = Image.fromarray(resized_CHW.permute(1, 2, 0).numpy())
    maps = {name: resize_map(map_HW, image_px=image_px, box=box) for name, map_HW in maps.items()}
    operations = list(_draw_operations(uniform)) if "random-operations" in augmentations else []
    for operation, sign in operations:
        image = operation.of_image(image, sign)
    changed = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return changed, {name: _operate(map_HW, operations) for name, map_HW in maps.items()}


def _operate(map_HW: Tensor, operations: Sequence[tuple[Operation, int]]) -> Tensor:
    labels = Image.fromarray(map_HW.numpy())
    for operation, sign in operations:
        labels = operation.of_map(labels, sign)
    return torch.from_numpy(np.array(labels))


def _draw_crop(size: tuple[int, int], uniform: Iterator[float]) -> Box:
    """Left, top, right, bottom in an image of `size` (height, width).

    Differs from ALBEF: the crop's ratio is relative to the image's own shape. ALBEF's ratio of 3/4 to 4/3 does not fit into
    a picture of one standing person, where torchvision then always falls back to the same crop around the body's middle.
    """
    # Drawn on a square and stretched to the image.
    side = 1024
    drawn = _draw_box((side, side), area=CROP_AREA, ratio=CROP_RATIO, uniform=uniform)
    top, left, height, width = drawn or (0, 0, side, side)
    x, y = size[1] / side, size[0] / side
    return round(left * x), round(top * y), round((left + width) * x), round((top + height) * y)


def _draw_operations(uniform: Iterator[float]) -> Iterator[tuple[Operation, int]]:
    """The operations that are made, each with its sign."""
    for _ in range(NUM_OPERATIONS):
        operation = OPERATIONS[int(next(uniform) * len(OPERATIONS))]
        made, negative = next(uniform) < OPERATION_PROBABILITY, next(uniform) < 0.5
        if made:
            yield operation, -1 if negative else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One of the random operations. The second argument is -1 or 1: the sign of a shear, a shift or a rotation."""

    of_image: Callable[[Image.Image, int], Image.Image]
    of_map: Callable[[Image.Image, int], Image.Image] = lambda labels, sign: labels
    """The same with a label map: nearest pixels, and background where nothing was."""


Matrix = tuple[float, float, float, float, float, float]


def _affine(matrix_of: Callable[[int], Matrix]) -> Operation:
    def change(image: Image.Image, sign: int, how: Image.Resampling, fill: tuple[int, int, int] | int) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix_of(sign), resample=how, fillcolor=fill)

    return Operation(
        of_image=lambda image, sign: change(image, sign, Image.Resampling.BILINEAR, GREY),
        of_map=lambda labels, sign: change(labels, sign, Image.Resampling.NEAREST, 0),
    )


# Strengths at level 7 of 10, from ALBEF's code: enhancement 0.7 * 1.8 + 0.1, shear 0.7 * 0.3, shift 0.7 * 10 px,
# rotation 0.7 * 30 degrees; the last three with a random sign.
OPERATIONS: tuple[Operation, ...] = (
    Operation(of_image=lambda image, sign: image),
    Operation(of_image=lambda image, sign: ImageOps.autocontrast(image)),
    Operation(of_image=lambda image, sign: ImageOps.equalize(image)),
    Operation(of_image=lambda image, sign: ImageEnhance.Brightness(image).enhance(LEVEL * 1.8 + 0.1)),
    Operation(of_image=lambda image, sign: ImageEnhance.Sharpness(image).enhance(LEVEL * 1.8 + 0.1)),
    _affine(lambda sign: (1, sign * LEVEL * 0.3, 0, 0, 1, 0)),
    _affine(lambda sign: (1, 0, 0, sign * LEVEL * 0.3, 1, 0)),
    _affine(lambda sign: (1, 0, sign * LEVEL * 10, 0, 1, 0)),
    _affine(lambda sign: (1, 0, 0, 0, 1, sign * LEVEL * 10)),
    Operation(
        of_image=lambda image, sign: image.rotate(sign * LEVEL * 30, resample=Image.Resampling.BILINEAR, fillcolor=GREY),
        of_map=lambda labels, sign: labels.rotate(sign * LEVEL * 30, resample=Image.Resampling.NEAREST, fillcolor=0),
    ),
)
"""Identity, autocontrast, equalise, brightness, sharpness, shear in x and y, shift in x and y, rotation."""
