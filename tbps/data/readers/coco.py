"""Rows of COCO captions, in Karpathy's file or in ALBEF's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tbps.data.readers.row import Row, anonymous, captions_of, clean_path, field_of


def coco_row(row: Mapping[str, Any], where: str) -> Row:
    """One image of `dataset_coco.json`. ValueError: a field is missing or wrong."""
    sentences = field_of(row, ("sentences",), where)
    if not isinstance(sentences, list) or not sentences or not all(isinstance(sentence, dict) for sentence in sentences):
        raise ValueError(f"{where}: 'sentences' is {sentences!r}, expected a list of objects; correct the row")
    captions = captions_of({"raw": [field_of(sentence, ("raw",), where) for sentence in sentences]}, "raw", where)
    split = str(field_of(row, ("split",), where))
    folder, name = (clean_path(field_of(row, (part,), where), where) for part in ("filepath", "filename"))
    # As ALBEF and others train: 82,783 + 30,504 images.
    return anonymous("train" if split == "restval" else split, f"{folder}/{name}", captions, where)


def coco_split_row(row: Mapping[str, Any], split: str, where: str) -> Row:
    """One row of the file that holds `split` alone."""
    return anonymous(split, clean_path(field_of(row, ("image",), where), where), captions_of(row, "caption", where), where)
