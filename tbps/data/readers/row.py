"""One image with captions as every reader gives it, and what readers ask of a row's fields."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_WHOLE_NUMBER = re.compile(r"(\d{1,18})(?:\.0+)?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One image with captions."""

    where: str
    """File and number of the row, for messages."""
    split: str | None
    """None where a row of CUHK-PEDES names none: `caption_all.json`."""
    image_path: str
    """Relative, with forward slashes, `./` and doubled slashes squeezed out: one spelling per path."""
    identity: str
    """The id; a whole number has one spelling, whether the file says 1, 1.0, "1" or "01". See `anonymous`, too."""
    id_form: str
    """How the file spells ids here ("" where the image is the identity): `int`, `float`, `str`."""
    captions: tuple[str, ...]
    attributes: tuple[int, ...] | None
    """In {0, 1, -1}; None where the row tells of none."""


def anonymous(
    split: str, image_path: str, captions: tuple[str, ...], where: str, *, attributes: tuple[int, ...] | None = None
) -> Row:
    """A row that does not say who is shown: the image is its own identity, and no id can be spelled like it."""
    return Row(
        where=where,
        split=split,
        image_path=image_path,
        identity=f" {image_path}",  # ids have no space at their ends
        id_form="",
        captions=captions,
        attributes=attributes,
    )


def field_of(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> Any:
    """The first of the fields `names` that the row has. ValueError: it has none of them."""
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(
        f"{where}: no field {' or '.join(map(repr, names))}, found {', '.join(map(repr, row))}; correct the row"
    )


def identity_of(given: object, name: str, where: str) -> tuple[str, str]:
    """The id in one spelling, and how it was spelled. ValueError: field `name` holds no id."""
    if (identity := one_spelling(given)) is None:
        raise ValueError(f"{where}: {name!r} is {given!r}, expected a whole number or a name; correct the row")
    return identity, type(given).__name__


def one_spelling(given: object) -> str | None:
    """An id as text: 1, 1.0, "1" and " 01" are all "1", a name is itself; None where `given` is no id."""
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if isinstance(given, float) and given.is_integer():
        return str(int(given))
    if isinstance(given, str) and (text := given.strip()) and is_text(text):
        number = _WHOLE_NUMBER.fullmatch(text)
        return str(int(number[1])) if number else text
    return None


def captions_of(row: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """The captions in field `name`, a list or a single one. ValueError: none, or what is no text."""
    captions = field_of(row, (name,), where)
    if isinstance(captions, str):
        captions = [captions]
    if not isinstance(captions, list) or not captions or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{where}: {name!r} is {captions!r}, expected a list of strings; correct the row")
    for caption in captions:
        if not is_text(caption):
            raise ValueError(
                f"{where}: {name!r} is {caption!r}, which holds half a character (a surrogate); correct the row"
            )
    return tuple(captions)


def attributes_of(given: object, name: str, where: str, *, number: int | None = None) -> tuple[int, ...]:
    """The labels in field `name`. ValueError: no list, other values than 0, 1 and -1, or not so many as `number`."""
    known = sum(given.count(value) for value in (0, 1, -1)) if isinstance(given, list) else 0
    if not isinstance(given, list) or not given or known != len(given) or len(given) != (number or len(given)):
        wanted = f"{number} of 0, 1, -1" if number else "a list of 0, 1, -1"
        raise ValueError(f"{where}: {name!r} is {given!r}, expected {wanted}; correct the row")
    return tuple(map(int, given))


def clean_path(path: object, where: str) -> str:
    """The path of an image in one spelling. ValueError: no path, or one that leaves the data set's folder."""
    if not isinstance(path, str) or not path or not is_text(path) or "\0" in path:
        raise ValueError(f"{where}: the image path is {path!r}, expected a relative path; correct the row")
    clean = path.replace("\\", "/")
    if clean.startswith("/") or ".." in clean.split("/"):
        raise ValueError(f"{where}: the image path {path!r} leaves the data set's folder; correct the row")
    if (clean := posixpath.normpath(clean)) == os.curdir:
        raise ValueError(f"{where}: the image path is {path!r}, expected a relative path; correct the row")
    return clean


def is_text(text: str) -> bool:
    """Whether every character is whole: JSON may spell half of one, as in "\\ud83d"."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
