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
from tbps.data.readers.ham_pedes import ham_pedes_rows
from tbps.data.readers.listed import objects_of, rows_of
from tbps.data.readers.luperson_mllm import luperson_rows
from tbps.data.readers.mals import mals_row
from tbps.data.readers.own_pairs import own_rows
from tbps.data.readers.pa_100k import pa_100k_rows
from tbps.data.readers.persons import person_row
from tbps.data.readers.row import Row
from tbps.data.readers.synth_pedes import synth_pedes_rows
from tbps.data.readers.web_person import web_person_rows

RowOf = Callable[[Mapping[str, Any], str], Row]


def read_rows(file: Path, benchmark: Benchmark) -> Iterator[Row]:
    """The rows of an annotation file, in its order. ValueError names file and row: broken, a field missing or wrong."""
    return READERS[benchmark](file)


def _each(file: Path, row_of: RowOf) -> Iterator[Row]:
    """A row for each object of a list."""
    return (row_of(row, where) for where, row in rows_of(file))


def _coco(file: Path) -> Iterator[Row]:
    layout = LAYOUTS["coco"]
    if file.name in layout.split_files:
        split = layout.splits[layout.split_files.index(file.name)]
        return (coco_split_row(row, split, where) for where, row in rows_of(file))
    content = read_json(file)
    if not isinstance(content, dict) or "images" not in content:
        raise ValueError(f"{file} holds no object with a list of 'images', as COCO's file has it; download it again")
    return (coco_row(row, where) for where, row in objects_of(content["images"], file))


def _pa_100k(file: Path) -> Iterator[Row]:
    layout = LAYOUTS["pa-100k"]
    return pa_100k_rows(file, layout.splits[layout.split_files.index(file.name)])


READERS: Mapping[Benchmark, Callable[[Path], Iterator[Row]]] = {
    "cuhk-pedes": partial(_each, row_of=partial(person_row, split_needed=False)),
    "icfg-pedes": partial(_each, row_of=partial(person_row, split_needed=True)),
    "rstpreid": partial(_each, row_of=partial(person_row, split_needed=True)),
    "mals": partial(_each, row_of=mals_row),
    "coco": _coco,
    "luperson-mllm": luperson_rows,
    "webperson": web_person_rows,
    "synth-pedes": synth_pedes_rows,
    "ham-pedes": ham_pedes_rows,
    "pa-100k": _pa_100k,
    "pairs": own_rows,
}
"""Who reads an annotation file of each data set."""
