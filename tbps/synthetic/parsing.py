"""Human-parsing maps with the 18 labels of ATR, as palette PNG files (mode P) whose pixel is the label."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import Image

from tbps.data.label_maps import ATR_LABELS

LABEL = {name: number for number, name in enumerate(ATR_LABELS)}


def save_parsing_map(labels: Image.Image, path: Path) -> None:
    """Write a map (mode L, pixel = label) as a palette PNG."""
    indexed = Image.frombytes("P", labels.size, labels.tobytes())
    indexed.putpalette(_palette())
    indexed.save(path, format="PNG", compress_level=4)


@cache
def _palette() -> bytes:
    """The PASCAL VOC colour of each label: the bits of the label dealt out to red, green and blue."""
    palette: list[int] = []
    for label in range(len(ATR_LABELS)):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
        palette += channels
    return bytes(palette)
