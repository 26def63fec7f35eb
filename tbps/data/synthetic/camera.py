"""Cameras: each has a place, a colour cast, a sharpness and a noise of its own, and frames people loosely."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from tbps.data.synthetic.randomness import stream
from tbps.data.synthetic.scene import BACKGROUNDS


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


def photograph(picture: Image.Image, camera: Camera, noise: np.random.Generator) -> Image.Image:
    """`picture` as `camera` sees it; the size stays."""
    width, height = picture.size
    if camera.sensor_px < height:
        reduced = (max(1, round(width * camera.sensor_px / height)), camera.sensor_px)
        picture = picture.resize(reduced, Image.Resampling.BILINEAR).resize((width, height), Image.Resampling.BILINEAR)
    if camera.blur > 0.0:
        picture = picture.filter(ImageFilter.BoxBlur(camera.blur * height / 1000))
    pixels_HW3 = np.asarray(picture, dtype=np.float32)
    exposure = float(noise.uniform(0.92, 1.08))
    side_W1 = np.linspace(1.0 + camera.light_from_left / 2, 1.0 - camera.light_from_left / 2, width, dtype=np.float32)[
        :, None
    ]
    gains_W3 = side_W1 * (np.asarray(camera.gains, dtype=np.float32) * exposure)
    # Grain is drawn once for the three channels: a third of the random numbers, and nearer to real luminance noise.
    grain_HW = noise.standard_normal((height, width), dtype=np.float32) * camera.noise
    seen_HW3 = pixels_HW3 * gains_W3
    seen_HW3 += np.repeat(grain_HW, 3, axis=1).reshape(height, width, 3)
    np.clip(seen_HW3, 0.0, 255.0, out=seen_HW3)
    return Image.fromarray(seen_HW3.astype(np.uint8))


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
