"""Cameras: each has a place, a colour cast, a sharpness and a noise of its own, and frames people loosely."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tbps.synthetic.randomness import noise_stream, stream
from tbps.synthetic.scene import BACKGROUNDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """What all images of one camera share."""

    number: int
    background: str
    gains: tuple[float, float, float]
    """Factors on red, green and blue: brightness and colour cast."""
    blur: float
    """Radius in thousandths of the image's height."""
    noise: float
    """Standard deviation in grey levels of 255."""
    sensor_px: int
    """Rows that the sensor gives a person; a larger image is soft, a smaller one does not notice."""
    light_from_left: float
    """Brightness falls by this share from one side to the other; negative = light from the right."""


GRAIN_MARGIN_PX = 64


@lru_cache(maxsize=256)
def make_camera(seed: int, number: int) -> Camera:
    """Camera `number` of the world `seed`."""
    random = stream(seed, "camera", number)
    brightness = random.uniform(0.82, 1.12)
    return Camera(
        number=number,
        background=BACKGROUNDS[(number + random.randrange(2)) % len(BACKGROUNDS)],
        gains=(
            brightness * random.uniform(0.94, 1.06),
            brightness * random.uniform(0.96, 1.03),
            brightness * random.uniform(0.93, 1.07),
        ),
        blur=random.choice((0.0, 0.0, 1.2, 2.4)),
        noise=random.uniform(1.0, 7.0),
        sensor_px=random.choice((1024, 1024, 256, 176)),
        light_from_left=random.uniform(-0.25, 0.25),
    )


def photograph(picture: Image.Image, camera: Camera, random: Random) -> Image.Image:
    """`picture` as `camera` sees it; the size stays."""
    width, height = picture.size
    if camera.sensor_px < height:
        reduced = (max(1, round(width * camera.sensor_px / height)), camera.sensor_px)
        picture = picture.resize(reduced, Image.Resampling.BILINEAR).resize((width, height), Image.Resampling.BILINEAR)
    if camera.blur > 0.0:
        picture = picture.filter(ImageFilter.BoxBlur(camera.blur * height / 1000))
    pixels_HW3 = np.asarray(picture, dtype=np.float32)
    exposure = random.uniform(0.92, 1.08)
    side = np.linspace(1.0 + camera.light_from_left / 2, 1.0 - camera.light_from_left / 2, width, dtype=np.float32)
    gains_W3 = side[:, None] * (np.asarray(camera.gains, dtype=np.float32) * exposure)
    top, left = random.randrange(GRAIN_MARGIN_PX), random.randrange(GRAIN_MARGIN_PX)
    seen_HW3 = pixels_HW3 * gains_W3
    seen_HW3 += _grain(height, width)[top : top + height, left : left + width] * np.float32(camera.noise)
    np.clip(seen_HW3, 0.0, 255.0, out=seen_HW3)
    return Image.fromarray(seen_HW3.astype(np.uint8))


@lru_cache(maxsize=4)
def _grain(height: int, width: int) -> NDArray[np.float32]:
    """Unit noise, the same in the three channels, a margin larger than an image: each image takes a random cut.

    Drawing it anew for every image would cost a fifth of the time of an image.
    """
    noise = noise_stream(0, "grain", height, width)
    rows, columns = height + GRAIN_MARGIN_PX, width + GRAIN_MARGIN_PX
    return np.repeat(noise.standard_normal((rows, columns, 1), dtype=np.float32), 3, axis=2)


def encode(picture: Image.Image, extension: str, quality: int) -> bytes:
    """`picture` as the bytes of a jpg (at `quality`), png or bmp file."""
    buffer = io.BytesIO()
    if extension == "jpg":
        picture.save(buffer, format="JPEG", quality=quality)
    elif extension == "png":
        picture.save(buffer, format="PNG", compress_level=1)
    else:
        picture.save(buffer, format="BMP")
    return buffer.getvalue()
