"""WebPerson: images of persons from the web, each with two captions of a multimodal model.

A file is a list of objects {path: {"caption1": ..., "caption2": ...}}, images lie in `images/`; a million of them are in
`100w.json` (w: ten thousand). What the file of all five million is called we have not seen: any `*w.json` is read.
Source: GA-DMS (arXiv 2509.09118), Multimodal-Representation-Learning-MRL/GA-DMS datasets/webreid.py at 30d281c; the card of
huggingface.co/datasets/Kaichengalex/WebPerson-5M names the same two captions.
Differs: "/n", written for a line break, becomes a space, but not inside of a word ("black/navy"); the official code deletes
it everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tbps.data.readers.listed import rows_of
from tbps.data.readers.machine_captions import MachineCaptions
from tbps.data.readers.row import Row, anonymous, captions_of, clean_path

_LINE_BREAK = re.compile(r"/n(?![a-z])")


def web_person_rows(file: Path) -> Iterator[Row]:
    """A row for each image with a caption that can be used. ValueError names file and row: a field is missing or wrong."""
    machine = MachineCaptions(file=file)
    for where, row in rows_of(file):
        for path, told in row.items():
            if not isinstance(told, Mapping):
                raise ValueError(f"{where}: {path!r} has {told!r}, expected caption1 and caption2; correct the row")
            image_path = clean_path(path, where)
            both = [caption for name in ("caption1", "caption2") for caption in captions_of(told, name, where)]
            if captions := machine.usable([_LINE_BREAK.sub(" ", caption) for caption in both]):
                yield anonymous("train", image_path, captions, where)
    machine.tell()
