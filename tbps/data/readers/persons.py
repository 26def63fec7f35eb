"""Rows of CUHK-PEDES, ICFG-PEDES and RSTPReid: images of persons whom somebody told apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tbps.data.readers.row import Row, captions_of, clean_path, field_of, identity_of


def person_row(row: Mapping[str, Any], where: str, *, split_needed: bool) -> Row:
    """One image with its captions. ValueError: a field is missing or wrong; without `split_needed` 'split' may be."""
    identity, form = identity_of(field_of(row, ("id",), where), "id", where)
    return Row(
        where=where,
        split=str(field_of(row, ("split",), where)) if split_needed or "split" in row else None,
        image_path=clean_path(field_of(row, ("file_path", "img_path"), where), where),
        identity=identity,
        id_form=form,
        captions=captions_of(row, "captions", where),
        attributes=None,
    )
