"""PA-100K as APTM's code reads it: images of persons with 26 attributes, and no captions.

`PA100K_train.json`, `PA100K_val.json` and `PA100K_test.json` are lists of {image, label}; a label is 1 where an attribute is
there, 0 where not, in the order of `tbps/config/pa_100k_prompts.py`. Images lie in `images/pa100k/release_data`.
Source: Shuyu-XJTU/APTM dataset/re_dataset.py (re_train_dataset_attr), configs/Retrieval_pa100k.yaml; the files, which its
authors prepared, we have not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tbps.data.readers.listed import rows_of
from tbps.data.readers.row import Row, anonymous, attributes_of, clean_path, field_of

NUM_ATTRIBUTES = 26
NO_CAPTION = ""
"""The caption of an image that has none: an image is still one pair."""


def pa_100k_rows(file: Path, split: str) -> Iterator[Row]:
    """The rows of the file of a split. ValueError names file and row: a field is missing or wrong."""
    for where, row in rows_of(file):
        image_path = clean_path(field_of(row, ("image",), where), where)
        attributes = attributes_of(field_of(row, ("label",), where), "label", where, number=NUM_ATTRIBUTES)
        yield anonymous(split, image_path, (NO_CAPTION,), where, attributes=attributes)
