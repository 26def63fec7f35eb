"""The rows of the annotation files of every data set, brought to one form by the readers in `tbps/data/readers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tbps.config.data import Benchmark
from tbps.data.json_file import read_json
from tbps.data.layouts import LAYOUTS
from tbps.data.readers.coco import coco_row, coco_split_row
from tbps.data.readers.mals import mals_row
from tbps.data.readers.own_pairs import own_rows
from tbps.data.readers.persons import person_row
from tbps.data.readers.row import Row

ReadRows = Callable[[Path], Iterator[Row]]
RowOf = Callable[[Mapping[str, Any], str], Row]


def read_rows(file: Path, benchmark: Benchmark) -> Iterator[Row]:
    """The rows of an annotation file, in its order. ValueError names file and row: broken, a field missing or wrong."""
    return READERS[benchmark](file)


def _listed(file: Path, row_of: RowOf) -> Iterator[Row]:
    """The rows of a file that is one JSON list of objects."""
    return _rows(read_json(file), file, row_of)


def _coco(file: Path) -> Iterator[Row]:
    layout = LAYOUTS["coco"]
    if file.name in layout.split_files:
        split = layout.splits[layout.split_files.index(file.name)]
        return _listed(file, lambda row, where: coco_split_row(row, split, where))
    content = read_json(file)
    if not isinstance(content, dict) or "images" not in content:
        raise ValueError(f"{file} holds no object with a list of 'images', as COCO's file has it; download it again")
    return _rows(content["images"], file, coco_row)


def _rows(content: object, file: Path, row_of: RowOf) -> Iterator[Row]:
    if not isinstance(content, list):
        raise ValueError(f"{file} holds a {type(content).__name__}, expected a list of rows; download it again")
    for number, row in enumerate(content, start=1):
        where = f"{file}, row {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where} is a {type(row).__name__}, expected an object; correct the row")
        yield row_of(row, where)


READERS: Mapping[Benchmark, ReadRows] = {
    "cuhk-pedes": partial(_listed, row_of=partial(person_row, split_needed=False)),
    "icfg-pedes": partial(_listed, row_of=partial(person_row, split_needed=True)),
    "rstpreid": partial(_listed, row_of=partial(person_row, split_needed=True)),
    "mals": partial(_listed, row_of=mals_row),
    "coco": _coco,
    "pairs": own_rows,
}
"""Who reads an annotation file of each data set."""
