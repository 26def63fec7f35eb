"""SYNTH-PEDES: images of LUPerson-NL and LPW with made captions, of persons told apart.

`synthpedes-dataset.json` is a list of {id, file_path, attributes, captions, prompt_caption}; images lie in `Part1` to
`Part11` beside it. All captions are read, those made from attributes (`prompt_caption`) last; an image may have these alone.
`attributes` (a line of words) is not read.
Source: Zplusdragon/PLIP README at 09890e3, which writes `synthpedes_dataset.json`; public readers of the set open
`synthpedes-dataset.json`: both are looked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tbps.data.readers.listed import rows_of
from tbps.data.readers.machine_captions import MachineCaptions
from tbps.data.readers.row import Row, captions_of, clean_path, field_of, identity_of


def synth_pedes_rows(file: Path) -> Iterator[Row]:
    """A row for each image with a caption that can be used. ValueError names file and row: a field is missing or wrong."""
    machine = MachineCaptions(file=file)
    for where, row in rows_of(file):
        identity, form = identity_of(field_of(row, ("id",), where), "id", where)
        image_path = clean_path(field_of(row, ("file_path",), where), where)
        given = [name for name in ("captions", "prompt_caption") if row.get(name) not in (None, [])]
        if not given:
            raise ValueError(f"{where}: neither 'captions' nor 'prompt_caption' holds a caption; correct the row")
        if captions := machine.usable([caption for name in given for caption in captions_of(row, name, where)]):
            yield Row(
                where=where,
                split="train",
                image_path=image_path,
                identity=identity,
                id_form=form,
                captions=captions,
                attributes=None,
            )
    machine.tell()
