"""Annotation files that are one JSON value: a list of objects, or one object with an entry for each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tbps.data.json_file import read_json


def rows_of(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where each object of the file's list stands, and the object. ValueError: no list of objects."""
    return objects_of(read_json(file), file)


def objects_of(content: object, file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The same of a list that `file` holds somewhere."""
    if not isinstance(content, list):
        raise ValueError(f"{file} holds a {type(content).__name__}, expected a list of rows; download it again")
    for number, row in enumerate(content, start=1):
        where = f"{file}, row {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where} is a {type(row).__name__}, expected an object; correct the row")
        yield where, row


def items_of(file: Path) -> Iterator[tuple[str, Any]]:
    """The entries of the file's object, by the path of an image. ValueError: no object."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(
            f"{file} holds a {type(content).__name__}, expected an object with an entry for each image; download it again"
        )
    return iter(content.items())
