"""Heads blurred by where they are: in the upper part of a picture of one upright person.

No face is looked for: detectors miss many of those that are some pixels high, as here, and a blur that is missing on some
would be trusted. What is blurred is reduced to the mean colours of a few cells, from which no face can be computed back.
"""

from __future__ import annotations

from PIL import Image

from tbps.search.segment import Box

_HEIGHT_SHARE, _WIDTH_SHARE = 1 / 4, 3 / 4
"""How far down a head may reach: twice a standing person's share, and what an upper body alone needs, by its width."""
_CELLS, _FRAME_CELLS = 6, 12
"""Cells that a person's head, and a whole frame, are as wide as."""


def with_head_blurred(person: Image.Image) -> Image.Image:
    """A picture of one person, of which the upper part is blurred; a picture wider than tall by a third, all of it.

    Example: of 48 x 144 pixels the upper 36 are, of 60 x 60 the upper 45.
    """
    width, height = person.size
    bottom = min(height, round(max(_HEIGHT_SHARE * height, _WIDTH_SHARE * width)))
    blurred = person.copy()
    blurred.paste(_in_cells(person.crop((0, 0, width, bottom)), _CELLS), (0, 0))
    return blurred


def with_others_blurred(frame: Image.Image, box: Box) -> Image.Image:
    """A frame of which all but a person's box is blurred, and that person's head."""
    blurred = _in_cells(frame, _FRAME_CELLS)
    blurred.paste(with_head_blurred(frame.crop(box)), box[:2])
    return blurred


def _in_cells(image: Image.Image, across: int) -> Image.Image:
    """Nothing left but the means of cells that are about square."""
    down = max(1, round(across * image.height / image.width))
    small = image.resize((across, down), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BILINEAR)
