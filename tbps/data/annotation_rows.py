"""The rows of the published annotation files, brought to one form."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps.config.data import Benchmark
from tbps.data.json_file import read_json
from tbps.data.layouts import LAYOUTS

NUM_ATTRIBUTES = 27
"""Attributes of a MALS row. A label is the place in a pair of prompts (hats, bags, colours: 0 = present); -1 = unknown."""

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
    """The id. A whole number has one spelling, whether the file says 1, 1.0, "1" or "01"."""
    id_form: str
    """How the file spells ids here ("" where the image is the identity): `int`, `float`, `str`."""
    captions: tuple[str, ...]
    attributes: tuple[int, ...] | None


def read_rows(file: Path, benchmark: Benchmark) -> Iterator[Row]:
    """The rows of an annotation file, in its order. ValueError names file and row: no JSON, a field missing or wrong."""
    for number, row in enumerate(_listed(file), start=1):
        where = f"{file}, row {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where} is a {type(row).__name__}, expected an object; correct the row")
        yield _parse(benchmark, file, row, where)


def _listed(file: Path) -> list[Any]:
    rows = read_json(file)
    if file.name in LAYOUTS["coco"].annotation_files:
        if not isinstance(rows, dict) or "images" not in rows:
            raise ValueError(f"{file} holds no object with a list of 'images', as COCO's file has it; download it again")
        rows = rows["images"]
    if not isinstance(rows, list):
        raise ValueError(f"{file} holds a {type(rows).__name__}, expected a list of rows; download it again")
    return rows


def _parse(benchmark: Benchmark, file: Path, row: Mapping[str, Any], where: str) -> Row:
    if benchmark == "mals":
        return _parse_mals(row, where)
    if benchmark != "coco":
        return _parse_person(row, where, split_needed=benchmark != "cuhk-pedes")
    layout = LAYOUTS["coco"]
    if file.name in layout.split_files:
        return _parse_coco_split(row, layout.splits[layout.split_files.index(file.name)], where)
    return _parse_coco(row, where)


def _parse_person(row: Mapping[str, Any], where: str, *, split_needed: bool) -> Row:
    identity, form = _identity(_field(row, ("id",), where), where)
    return Row(
        where=where,
        split=str(_field(row, ("split",), where)) if split_needed or "split" in row else None,
        image_path=_clean_path(_field(row, ("file_path", "img_path"), where), where),
        identity=identity,
        id_form=form,
        captions=_captions(row, "captions", where),
        attributes=None,
    )


def _parse_mals(row: Mapping[str, Any], where: str) -> Row:
    caption = _field(row, ("caption",), where)
    if not isinstance(caption, str):
        raise ValueError(f"{where}: 'caption' is {caption!r}, expected a string; correct the row")
    attributes = _field(row, ("label",), where)
    known = sum(attributes.count(value) for value in (0, 1, -1)) if isinstance(attributes, list) else 0
    if known != NUM_ATTRIBUTES or len(attributes) != NUM_ATTRIBUTES:
        raise ValueError(f"{where}: 'label' is {attributes!r}, expected {NUM_ATTRIBUTES} of 0, 1, -1; correct the row")
    image_path = _clean_path(_field(row, ("image",), where), where)
    captions = _captions(row, "caption", where)
    return _anonymous("train", image_path, captions, where, attributes=tuple(map(int, attributes)))


def _parse_coco(row: Mapping[str, Any], where: str) -> Row:
    sentences = _field(row, ("sentences",), where)
    if not isinstance(sentences, list) or not sentences or not all(isinstance(sentence, dict) for sentence in sentences):
        raise ValueError(f"{where}: 'sentences' is {sentences!r}, expected a list of objects; correct the row")
    captions = _captions({"raw": [_field(sentence, ("raw",), where) for sentence in sentences]}, "raw", where)
    split = str(_field(row, ("split",), where))
    folder, name = (_clean_path(_field(row, (part,), where), where) for part in ("filepath", "filename"))
    # As ALBEF and others train: 82,783 + 30,504 images.
    return _anonymous("train" if split == "restval" else split, f"{folder}/{name}", captions, where)


def _parse_coco_split(row: Mapping[str, Any], split: str, where: str) -> Row:
    image_path = _clean_path(_field(row, ("image",), where), where)
    return _anonymous(split, image_path, _captions(row, "caption", where), where)


def _anonymous(
    split: str, image_path: str, captions: tuple[str, ...], where: str, *, attributes: tuple[int, ...] | None = None
) -> Row:
    """A row of a data set in which every image is its own identity."""
    return Row(
        where=where,
        split=split,
        image_path=image_path,
        identity=image_path,
        id_form="",
        captions=captions,
        attributes=attributes,
    )


def _field(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(
        f"{where}: no field {' or '.join(map(repr, names))}, found {', '.join(map(repr, row))}; correct the row"
    )


def _identity(given: object, where: str) -> tuple[str, str]:
    """The id in one spelling, and how it was spelled."""
    if (identity := one_spelling(given)) is None:
        raise ValueError(f"{where}: 'id' is {given!r}, expected a whole number or a name; correct the row")
    return identity, type(given).__name__


def one_spelling(given: object) -> str | None:
    """An id as text: 1, 1.0, "1" and " 01" are all "1", a name is itself; None where `given` is no id."""
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if isinstance(given, float) and given.is_integer():
        return str(int(given))
    if isinstance(given, str) and (text := given.strip()) and _is_text(text):
        number = _WHOLE_NUMBER.fullmatch(text)
        return str(int(number[1])) if number else text
    return None


def _captions(row: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    captions = _field(row, (name,), where)
    if isinstance(captions, str):
        captions = [captions]
    if not isinstance(captions, list) or not captions or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{where}: {name!r} is {captions!r}, expected a list of strings; correct the row")
    for caption in captions:
        if not _is_text(caption):
            raise ValueError(
                f"{where}: {name!r} is {caption!r}, which holds half a character (a surrogate); correct the row"
            )
    return tuple(captions)


def _clean_path(path: object, where: str) -> str:
    if not isinstance(path, str) or not path or not _is_text(path) or "\0" in path:
        raise ValueError(f"{where}: the image path is {path!r}, expected a relative path; correct the row")
    clean = path.replace("\\", "/")
    if clean.startswith("/") or ".." in clean.split("/"):
        raise ValueError(f"{where}: the image path {path!r} leaves the data set's folder; correct the row")
    if (clean := posixpath.normpath(clean)) == os.curdir:
        raise ValueError(f"{where}: the image path is {path!r}, expected a relative path; correct the row")
    return clean


def _is_text(text: str) -> bool:
    """Whether every character is whole: JSON may spell half of one, as in "\\ud83d"."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
