"""A user's own pairs: `pairs.csv` or `pairs.jsonl`, as tbps/data/own_pairs.md tells.

Columns, or fields of an object a line: image and caption; optionally identity, split, attributes. Rows that name one image
add captions to it. The format is ours.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tbps.data.impostor import impostor
from tbps.data.readers.row import Row, anonymous, attributes_of, captions_of, clean_path, field_of, identity_of

logger = logging.getLogger(__name__)

NEEDED = ("image", "caption")
OPTIONAL = ("identity", "split", "attributes")
SPLITS = ("train", "val", "test")
SEPARATORS = (",", ";", "\t")
"""What may stand between the cells of a line: the one that separates the columns' names."""
_UTF_8_MARK = b"\xef\xbb\xbf"


def own_rows(file: Path) -> Iterator[Row]:
    """The rows of `pairs.csv` or `pairs.jsonl`, in order. ValueError names file and line: see `_csv_rows`, `_json_rows`."""
    with file.open("rb") as content:
        start = content.read(512)
        if start.strip() and (what := impostor(start)):
            raise ValueError(f"{file} holds no pairs: it is {what}")
        content.seek(0)
        objects = _csv_rows(content, file) if file.suffix == ".csv" else _json_rows(content, file)
        num_attributes: int | None = None
        row = None
        for where, fields in objects:
            row = _row(fields, where, num_attributes)
            if row.attributes is not None:
                num_attributes = len(row.attributes)
            yield row
    if row is None:
        raise ValueError(f"{file} holds no pair; write a line for each: an image and a caption of it")


def _row(fields: Mapping[str, Any], where: str, num_attributes: int | None) -> Row:
    """ValueError: a field is missing, empty or wrong, or there are other numbers of attributes than in the rows before."""
    image_path = clean_path(field_of(fields, ("image",), where), where)
    captions = captions_of(fields, "caption", where)
    if any(not caption.strip() for caption in captions):
        raise ValueError(f"{where}: 'caption' is empty; write one, or remove the line")
    split = fields.get("split") or "train"
    if split not in SPLITS:
        raise ValueError(f"{where}: 'split' is {split!r}, expected one of {', '.join(SPLITS)}, or nothing for train")
    given = fields.get("attributes")
    attributes = None if given in (None, "", []) else attributes_of(given, "attributes", where, number=num_attributes)
    if fields.get("identity") in (None, ""):
        return anonymous(split, image_path, captions, where, attributes=attributes)
    identity, form = identity_of(fields["identity"], "identity", where)
    return Row(
        where=where,
        split=split,
        image_path=image_path,
        identity=identity,
        id_form=form,
        captions=captions,
        attributes=attributes,
    )


def _lines(content: IO[bytes], file: Path) -> Iterator[str]:
    """Lines with their ends. ValueError: they are not UTF-8."""
    for number, line in enumerate(content, start=1):
        if number == 1:
            line = line.removeprefix(_UTF_8_MARK)
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{file}, line {number} is not UTF-8 text: its byte {error.start + 1} is 0x{line[error.start]:02x};"
                " save the file as UTF-8"
            ) from error


# -- CSV -----------------------------------------------------------------------------------------------------------------


def _csv_rows(content: IO[bytes], file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row begins, and its cells by column; blank lines are passed over.

    ValueError: no such columns, more or fewer cells than columns, a quote that is not closed, or other text than UTF-8.
    """
    lines = _lines(content, file)
    names = next(lines, "")
    separator = max(SEPARATORS, key=names.count)
    rows = _split_lines(itertools.chain([names], lines), separator, file)
    columns = _columns([name.strip() for _, cells in itertools.islice(rows, 1) for name in cells], file)
    for where, cells in rows:
        if len(cells) != len(columns):
            raise ValueError(
                f"{where} has {len(cells)} cells, expected {len(columns)} ({', '.join(columns)}); put a caption that holds"
                f" {separator!r} between double quotes"
            )
        yield where, _cells(dict(zip(columns, cells, strict=True)), where)


def _split_lines(lines: Iterator[str], separator: str, file: Path) -> Iterator[tuple[str, list[str]]]:
    """Where each row begins, and its cells."""
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=True)
    while True:
        where = f"{file}, line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{where} is no row: {error}; is a quote not closed, or not doubled inside quotes?") from error
        if cells:
            yield where, cells


def _columns(names: Sequence[str], file: Path) -> Sequence[str]:
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(
            f"{file}, line 1 has no column {missing[0]!r}, found {', '.join(map(repr, names))}; name the columns there:"
            f" {', '.join(NEEDED)}, and as you have them {', '.join(OPTIONAL)}"
        )
    if twice := [name for name in (*NEEDED, *OPTIONAL) if names.count(name) > 1]:
        raise ValueError(f"{file}, line 1 names column {twice[0]!r} {names.count(twice[0])} times; keep one of them")
    if others := [name for name in names if name not in (*NEEDED, *OPTIONAL)]:
        logger.warning("%s: columns that are not read: %s", file, ", ".join(others))
    return names


def _cells(cells: dict[str, Any], where: str) -> dict[str, Any]:
    """Cells as fields of JSON would be: without spaces at their ends; attributes are numbers between spaces."""
    cells |= {name: cells[name].strip() for name in ("image", *OPTIONAL) if name in cells}
    if labels := cells.get("attributes", "").split():
        try:
            cells["attributes"] = [int(label) for label in labels]
        except ValueError as error:
            raise ValueError(
                f"{where}: 'attributes' is {' '.join(labels)!r}, expected 0, 1 and -1 between spaces; correct the row"
            ) from error
    return cells


# -- JSON lines ----------------------------------------------------------------------------------------------------------


def _json_rows(content: IO[bytes], file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's number and object; blank lines are passed over. ValueError: a line is no object, or not UTF-8."""
    unread: set[str] = set()
    for number, line in enumerate(_lines(content, file), start=1):
        where = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is not JSON (column {error.colno}: {error.msg}); write one object a line") from error
        except (RecursionError, ValueError) as error:  # nested without end; a number of thousands of digits
            raise ValueError(f"{where} is not JSON that can be read ({error}); correct it") from error
        if not isinstance(fields, dict):
            raise ValueError(f"{where} is a {type(fields).__name__}, expected an object with image and caption")
        if others := fields.keys() - {*NEEDED, *OPTIONAL} - unread:
            unread |= others
            logger.warning("%s: fields that are not read: %s", where, ", ".join(sorted(others)))
        yield where, fields
