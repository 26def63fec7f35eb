"""LUPerson-MLLM: a million images of LUPerson with captions of two multimodal models.

Four files hold a caption of each image: `Ts-` in one wording, `Td-` after a template, by Qwen-VL and by Shikra. Each is an
object {path: caption}; of a path only the file's name counts, and all images lie in `LUPerson-MLLM/`.
Source: WentaoTan/MLLM4Text-ReID (CVPR 2024) datasets/luperson.py, at b66b591; the files themselves
(huggingface.co/datasets/TwT-6/LUPerson-MLLM-captions) we have not seen.
Differs: a caption left as its template was is left out; the official code puts one of the image's `Ts-` captions in its
place, which then counts twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tbps.data.readers.listed import items_of
from tbps.data.readers.machine_captions import UNFILLED, MachineCaptions
from tbps.data.readers.row import Row, anonymous, captions_of, clean_path


def luperson_rows(file: Path) -> Iterator[Row]:
    """A row for each caption of the file that can be used. ValueError: no object, or a value is no text."""
    machine = MachineCaptions(file=file, unfilled=UNFILLED)
    for path, value in items_of(file):
        where = f"{file}, {path!r}"
        image_path = clean_path(path.rpartition("/")[2], where)
        if captions := machine.usable(captions_of({"caption": value}, "caption", where)):
            yield anonymous("train", image_path, captions, where)
    machine.tell()
