"""The colour names of the synthetic world; each is a distribution of RGB values, and neighbours overlap a little."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

RGB = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ColourRange:
    """A box in hue, saturation, value; hue is a mean and a standard deviation on the circle [0, 1)."""

    hue: float
    hue_spread: float
    saturation: tuple[float, float]
    value: tuple[float, float]


COLOURS: Mapping[str, ColourRange] = {
    "black": ColourRange(hue=0.6, hue_spread=0.3, saturation=(0.0, 0.18), value=(0.05, 0.16)),
    "white": ColourRange(hue=0.5, hue_spread=0.3, saturation=(0.0, 0.05), value=(0.91, 1.0)),
    "gray": ColourRange(hue=0.6, hue_spread=0.2, saturation=(0.0, 0.08), value=(0.40, 0.66)),
    "red": ColourRange(hue=0.995, hue_spread=0.010, saturation=(0.78, 0.95), value=(0.62, 0.88)),
    "orange": ColourRange(hue=0.065, hue_spread=0.010, saturation=(0.80, 0.97), value=(0.86, 1.0)),
    "yellow": ColourRange(hue=0.145, hue_spread=0.010, saturation=(0.66, 0.92), value=(0.86, 1.0)),
    "green": ColourRange(hue=0.36, hue_spread=0.035, saturation=(0.50, 0.85), value=(0.30, 0.62)),
    "blue": ColourRange(hue=0.605, hue_spread=0.014, saturation=(0.66, 0.92), value=(0.55, 0.86)),
    "navy": ColourRange(hue=0.635, hue_spread=0.016, saturation=(0.55, 0.80), value=(0.20, 0.34)),
    "light blue": ColourRange(hue=0.555, hue_spread=0.016, saturation=(0.26, 0.46), value=(0.82, 0.98)),
    "purple": ColourRange(hue=0.765, hue_spread=0.018, saturation=(0.45, 0.75), value=(0.40, 0.68)),
    "pink": ColourRange(hue=0.93, hue_spread=0.018, saturation=(0.28, 0.55), value=(0.88, 1.0)),
    "brown": ColourRange(hue=0.06, hue_spread=0.012, saturation=(0.50, 0.72), value=(0.28, 0.46)),
    "beige": ColourRange(hue=0.105, hue_spread=0.012, saturation=(0.20, 0.36), value=(0.74, 0.88)),
}

HAIR_RGB: Mapping[str, RGB] = {
    "black": (24, 21, 22),
    "brown": (86, 54, 33),
    "blonde": (214, 176, 98),
    "gray": (158, 156, 154),
    "red": (150, 62, 28),
}

SKIN_RGB: tuple[RGB, ...] = ((244, 208, 184), (232, 190, 160), (214, 166, 130), (178, 126, 92), (132, 88, 60), (88, 58, 42))


def sample_rgb(name: str, random: Random) -> RGB:
    """One RGB value of the colour called `name`."""
    box = COLOURS[name]
    hue = random.gauss(box.hue, box.hue_spread) % 1.0
    return to_rgb(hue, random.uniform(*box.saturation), random.uniform(*box.value))


def to_rgb(hue: float, saturation: float, value: float) -> RGB:
    """Hue, saturation and value in [0, 1] as three bytes."""
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def scaled(rgb: RGB, factor: float) -> RGB:
    """`rgb` darker (factor < 1) or lighter (factor > 1), cut off at 255."""
    red, green, blue = rgb
    return min(255, round(red * factor)), min(255, round(green * factor)), min(255, round(blue * factor))


def mixed(first: RGB, second: RGB, share: float) -> RGB:
    """`share` of `second` and the rest of `first`."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second))  # type: ignore[return-value]


def contrast_of(rgb: RGB) -> RGB:
    """A shade of `rgb` that can be seen on it: lighter on dark colours, darker on light ones."""
    return mixed(rgb, (255, 255, 255), 0.22) if sum(rgb) < 240 else scaled(rgb, 0.72)
