"""Image files to uint8 tensors.

Training decodes with simplejpeg (the same bytes as PIL: both are libjpeg-turbo) and resizes with torch's antialiased
interpolation on uint8, about twice as fast as PIL. Torch keeps its filter weights in 16 bits, so it equals PIL exactly only
where they suffice (384x128 to 384x384, for one); elsewhere about 1 value in 200 differs by 1, rarely 2, of 255 grey levels.
Evaluation resizes with PIL itself, as published results were made.

PIL changed too: where that is less work, version 13 filters columns before rows, which moves a quarter of the values by one
grey level against rows first (what torch does).

Pixels are PIL's `convert("RGB")`, as in the official code: transparency is dropped, CMYK converted without a colour profile,
a rotation written in EXIF not applied. One thing differs: grey pictures of 16 bits keep their upper 8, as coloured ones do;
PIL clips them to white. `tbps data doctor --decode` tells of all such pictures (`what_changes`).

PyTorch is imported by what resizes alone: the commands that only look at images start without it.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from tbps.config.data import Interpolation
from tbps.data.impostor import impostor

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 89_478_485
"""A header that claims more is damaged, or an attack: PIL's own limit (a quarter of a GiB at 3 bytes a pixel)."""

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
"""PIL's name of each interpolation."""
_ORIENTATION = 0x0112
"""The EXIF tag; 1 = upright."""


def decode(file_bytes: bytes, *, key: str, at_least_px: tuple[int, int] = (0, 0)) -> NDArray[np.uint8]:
    """(height, width, 3) RGB uint8. ValueError names `key` if the file is damaged, no image, or of no known range.

    at_least_px: height and width that suffice; a JPEG is scaled, by eighths, while it is decoded. (0, 0): its whole size.
    Example: a 2 x 1 grey PNG of 16 bits with the values 256 and 65535 gives [[[1, 1, 1], [255, 255, 255]]].
    """
    if simplejpeg.is_jpeg(file_bytes):
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(file_bytes)
            if colours in ("YCbCr", "RGB", "Gray") and height * width <= MAX_PIXELS:
                scaled = {"min_height": at_least_px[0], "min_width": at_least_px[1]} if any(at_least_px) else {}
                return simplejpeg.decode_jpeg(file_bytes, colorspace="RGB", **scaled)
        except ValueError:
            # Damaged, or only odd: PIL decides which.
            pass
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(file_bytes)) as image:
            return pixels_of(image)
    except Exception as error:  # decoders raise whatever a damaged file leads them to: struct.error, SyntaxError, zlib.error
        raise ValueError(f"pair {key}: {_refusal(file_bytes, error)}") from error


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """`decode` of an image that PIL has opened. ValueError: it is too large, or of no known range."""
    if not 0 < image.width * image.height <= MAX_PIXELS:
        raise ValueError(f"its header claims {image.width} x {image.height} pixels, expected 1 to {MAX_PIXELS:,}")
    if image.mode.startswith("I;16") and image.format == "PNG":
        upper_HW = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(upper_HW[:, :, None], 3, axis=2)
    if image.mode.startswith(("I", "F")):
        raise _UnknownRange(f"its pixels are of mode {image.mode}, and nothing says which value is white")
    return np.array(image.convert("RGB"))


class _UnknownRange(ValueError):
    """A whole picture that cannot be brought to 8 bits without a guess."""


def _refusal(file_bytes: bytes, error: Exception) -> str:
    """What is wrong with an image file and what to do."""
    said = f"its image file ({len(file_bytes)} bytes) cannot be decoded"
    if what := impostor(file_bytes):
        return f"{said}: it is {what}"
    if isinstance(error, _UnknownRange):
        return f"{said}: {error}; save it with 8 bits a channel"
    # PIL's own sentence holds an address in memory.
    unknown = isinstance(error, UnidentifiedImageError)
    reason = "it is no image of a known kind" if unknown else str(error) or type(error).__name__
    return f"{said}: {reason}; the file is damaged, download it again"


def what_changes(file_bytes: bytes) -> tuple[str, ...]:
    """What `decode` leaves out of an image that it can decode, one phrase for each kind; usually nothing."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(file_bytes)) as image:
            return _changes(image)
    except Exception:  # as in `decode`, of what decoding does not look at
        return ("damaged outside the pixels that are used",)


def _changes(image: ImageFile.ImageFile) -> tuple[str, ...]:
    depth = f"{image.mode} {[tile.args for tile in image.tile]}"
    # PIL turns TIFF itself.
    turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    changes = {
        "of more than 8 bits a channel, of which the upper 8 are used": ";16" in depth,
        "with transparency, which is dropped": image.has_transparency_data,
        "in CMYK, converted without a colour profile": image.mode == "CMYK",
        "with a rotation in EXIF, which is not applied": turned,
        "of several frames, of which the first is used": getattr(image, "is_animated", False),
    }
    return tuple(phrase for phrase, found in changes.items() if found)


def resize(image_HWC: NDArray[np.uint8], *, image_px: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Squash to `image_px` (height, width) with antialias; returns (3, height, width) uint8. For training."""
    import torch

    # Planar first: torch is slower on interleaved channels, and numpy is the faster one at parting them.
    image_CHW = torch.from_numpy(np.ascontiguousarray(image_HWC.transpose(2, 0, 1)))
    if image_CHW.shape[1:] == image_px:
        return image_CHW
    return torch.nn.functional.interpolate(image_CHW[None], size=image_px, mode=interpolation, antialias=True)[0]


def resize_exactly(image_HWC: NDArray[np.uint8], *, image_px: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """As `resize`, by PIL: (3, height, width) uint8. For evaluation."""
    import torch

    resized = Image.fromarray(image_HWC).resize(image_px[::-1], RESAMPLING[interpolation])
    return torch.from_numpy(np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1)))
