"""HAM-PEDES: a million images of SYNTH-PEDES, each with two captions in the manner of human annotators.

`random100w_2HAMcaptions.json` is an object {path: [caption, caption]}; images are those of SYNTH-PEDES, in `Part1` to
`Part11`. There a person is a folder (`Part1/7/1.jpg` shows person 7), and so here; an image at another place is its own.
Source: sssaury/HAM (CVPR 2025) readme.md at 35be342: two captions of each of a million images of SYNTH-PEDES. That
the file is such an object we know from code of others that reads it; whether its keys are whole paths, and whether the
authors train by persons or by images, we have not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tbps.data.readers.listed import items_of
from tbps.data.readers.machine_captions import MachineCaptions
from tbps.data.readers.row import Row, anonymous, captions_of, clean_path

_PERSON = re.compile(r"(?:.*/)?Part\d+/(\d{1,18})/[^/]+", re.ASCII)


def ham_pedes_rows(file: Path) -> Iterator[Row]:
    """A row for each image with a caption that can be used. ValueError: no object, or a value is no list of texts."""
    machine = MachineCaptions(file=file)
    for path, value in items_of(file):
        where = f"{file}, {path!r}"
        image_path = clean_path(path, where)
        captions = machine.usable(captions_of({"captions": value}, "captions", where))
        person = _PERSON.fullmatch(image_path)
        if not captions:
            continue
        if person is None:
            yield anonymous("train", image_path, captions, where)
        else:
            yield Row(
                where=where,
                split="train",
                image_path=image_path,
                identity=str(int(person[1])),
                id_form="str",
                captions=captions,
                attributes=None,
            )
    machine.tell()
