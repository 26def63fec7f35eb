"""Rows of MALS: made pictures with a caption and 27 attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tbps.data.readers.row import Row, anonymous, attributes_of, captions_of, clean_path, field_of

NUM_ATTRIBUTES = 27
"""Attributes of a MALS row. A label is the place in a pair of prompts (hats, bags, colours: 0 = present); -1 = unknown."""


def mals_row(row: Mapping[str, Any], where: str) -> Row:
    """One image. ValueError: a field is missing or wrong."""
    caption = field_of(row, ("caption",), where)
    if not isinstance(caption, str):
        raise ValueError(f"{where}: 'caption' is {caption!r}, expected a string; correct the row")
    attributes = attributes_of(field_of(row, ("label",), where), "label", where, number=NUM_ATTRIBUTES)
    image_path = clean_path(field_of(row, ("image",), where), where)
    return anonymous("train", image_path, captions_of(row, "caption", where), where, attributes=attributes)
