"""Read the annotation files of CUHK-PEDES, ICFG-PEDES, RSTPReid, MALS and COCO captions as published, into columns.

Shapes: N pairs, I images, A attributes.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps.config.run import Benchmark
from tbps.data.column import StringColumn

logger = logging.getLogger(__name__)

NUM_ATTRIBUTES = 27
"""Attributes of a MALS row. A label is the place in a pair of prompts (hats, bags, colours: 0 = present); -1 = unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where a published data set keeps its annotations and images, in the order in which places are tried."""

    annotation_files: tuple[str, ...]
    """File names, or one glob pattern whose matches are all read (MALS)."""
    split_files: tuple[str, ...] = ()
    """Where none of them is there: a file for each of `splits`, in their order; those that exist are read."""
    image_folders: tuple[str, ...]
    splits: tuple[str, ...]
    image_is_identity: bool = False
    """Nobody knows who else shows the same person: every image is an identity of its own."""


LAYOUTS: Mapping[Benchmark, Layout] = {
    "cuhk-pedes": Layout(
        annotation_files=("reid_raw.json", "caption_all.json"),
        image_folders=("imgs", "images", "."),
        splits=("train", "val", "test"),
    ),
    "icfg-pedes": Layout(
        annotation_files=("ICFG-PEDES.json", "ICFG_PEDES.json"),
        image_folders=("imgs", "images", "."),
        splits=("train", "test"),
    ),
    "rstpreid": Layout(
        annotation_files=("data_captions.json",),
        image_folders=("imgs", "images", "."),
        splits=("train", "val", "test"),
    ),
    # The README's tree and the rows disagree about the folder `gene_crop`: both are tried.
    "mals": Layout(
        annotation_files=("gene_attrs/g_*_attrs.json",),
        image_folders=(".", "gene_crop", "images", "images/gene_crop"),
        splits=("train",),
        image_is_identity=True,
    ),
    "coco": Layout(
        annotation_files=("dataset_coco.json",),  # the splits of Karpathy and Fei-Fei, arXiv 1412.2306
        split_files=("coco_train.json", "coco_val.json", "coco_test.json"),  # the same splits, as ALBEF's code reads them
        image_folders=(".", "images"),
        splits=("train", "val", "test"),
        image_is_identity=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split as columns. A pair is one image with one of its captions; pairs lie in file order."""

    name: str
    image_path: StringColumn
    """(I) as written in the annotation file, with forward slashes."""
    image_identity_I: NDArray[np.int64]
    """(I,) identities counted 0, 1, ... in the order in which the split first names them."""
    caption: StringColumn
    """(N) as written."""
    image_N: NDArray[np.int64]
    """(N,) row of the pair's image."""
    caption_number_N: NDArray[np.int64]
    """(N,) which caption of its image the pair holds, from 0."""
    attribute_IA: NDArray[np.int8] | None
    """(I, A) in {0, 1, -1}; None where the data set has none."""

    @property
    def identity_N(self) -> NDArray[np.int64]:
        """(N,) identity of each pair."""
        return self.image_identity_I[self.image_N]

    @property
    def num_identities(self) -> int:
        """How many persons the split shows."""
        return int(self.image_identity_I.max()) + 1 if len(self.image_identity_I) else 0

    def pair_key(self, index: int) -> str:
        """`<image path>#<caption number>`: names pair `index` in messages and keys its random choices."""
        return f"{self.image_path[int(self.image_N[index])]}#{self.caption_number_N[index]}"


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """All splits of one data set."""

    benchmark: Benchmark
    root: Path
    splits: Mapping[str, Split]

    def split(self, name: str) -> Split:
        """The split called `name`. ValueError names those that exist."""
        if name not in self.splits:
            raise ValueError(
                f"{self.benchmark} at {self.root} has no split {name!r}: it has {', '.join(self.splits)}; choose one of them"
            )
        return self.splits[name]


def read_annotations(root: Path, benchmark: Benchmark) -> Annotations:
    """Read every split of `benchmark` below `root`.

    ValueError: the root holds no annotation file, a file is not JSON, a row lacks a field or an image belongs to two
    identities. Images are not looked at: `tbps.data.doctor` does that.
    """
    splits = {name: _SplitBuilder(name) for name in LAYOUTS[benchmark].splits}
    for file in annotation_files(root, benchmark):
        for row_number, row in enumerate(_read_rows(file), start=1):
            where = f"{file}, row {row_number}"
            parsed = _parse(benchmark, file, row, where)
            if parsed.split not in splits:
                raise ValueError(f"{where}: split is {parsed.split!r}, expected one of {', '.join(splits)}; correct the row")
            splits[parsed.split].add(parsed, where)
    built = {name: builder.build() for name, builder in splits.items() if builder.image_paths}
    for name in set(splits) - set(built):
        logger.warning("%s at %s has no row of split %s", benchmark, root, name)
    return Annotations(benchmark=benchmark, root=root, splits=built)


def annotation_files(root: Path, benchmark: Benchmark) -> list[Path]:
    """The annotation files below `root`; ValueError lists what was looked for and what is there."""
    names, split_files = LAYOUTS[benchmark].annotation_files, LAYOUTS[benchmark].split_files
    if benchmark == "mals":
        for folder in (root, root / "data"):
            if found := sorted(folder.glob(names[0])):
                return found
    for name in names:
        if (root / name).is_file():
            return [root / name]
    if found := [root / name for name in split_files if (root / name).is_file()]:
        return found
    wanted = " or ".join((*names, *split_files[:1]))
    if not root.is_dir():
        raise ValueError(f"data.root {root} is not a folder; give the folder that holds {wanted}")
    here = sorted(entry.name for entry in root.iterdir())
    listed = ", ".join(here[:10]) + (f" and {len(here) - 10} more" if len(here) > 10 else "") if here else "nothing"
    raise ValueError(
        f"data.root {root} is not {benchmark}: looked for {wanted}, found {listed};"
        " give the folder that holds the annotation file"
    )


def find_image(root: Path, benchmark: Benchmark, image_path: str) -> Path | None:
    """The file of `image_path`, tried in every image folder and then with the other extensions; None = not there."""
    for folder in LAYOUTS[benchmark].image_folders:
        if (path := root / folder / image_path).is_file():
            return path
    for folder in LAYOUTS[benchmark].image_folders:
        for extension in (".jpg", ".png", ".bmp", ".jpeg", ".JPG"):
            if (path := (root / folder / image_path).with_suffix(extension)).is_file():
                return path
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    split: str
    image_path: str
    identity: str
    captions: tuple[str, ...]
    attributes: tuple[int, ...] | None


def _read_rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}; download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: byte {error.start}; download it again") from error
    if file.name in LAYOUTS["coco"].annotation_files:
        if not isinstance(rows, dict) or "images" not in rows:
            raise ValueError(f"{file} holds no object with a list of 'images', as COCO's file has it; download it again")
        rows = rows["images"]
    if not isinstance(rows, list):
        raise ValueError(f"{file} holds a {type(rows).__name__}, expected a list of rows; download it again")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{file}, row {number} is a {type(row).__name__}, expected an object; correct the row")
        yield row


def _field(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise ValueError(
        f"{where}: no field {' or '.join(map(repr, names))}, found {', '.join(map(repr, row))}; correct the row"
    )


def _parse(benchmark: Benchmark, file: Path, row: Mapping[str, Any], where: str) -> _Row:
    if benchmark == "mals":
        return _parse_mals(row, where)
    if benchmark != "coco":
        return _parse_row(row, where)
    layout = LAYOUTS["coco"]
    if file.name in layout.split_files:
        return _parse_coco_split(row, layout.splits[layout.split_files.index(file.name)], where)
    return _parse_coco(row, where)


def _parse_row(row: Mapping[str, Any], where: str) -> _Row:
    return _Row(
        split=str(_field(row, ("split",), where)),
        image_path=_clean_path(_field(row, ("file_path", "img_path"), where), where),
        identity=str(_field(row, ("id",), where)),
        captions=_captions(row, "captions", where),
        attributes=None,
    )


def _captions(row: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    captions = _field(row, (name,), where)
    if isinstance(captions, str):
        captions = [captions]
    if not isinstance(captions, list) or not captions or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{where}: {name!r} is {captions!r}, expected a list of strings; correct the row")
    return tuple(captions)


def _parse_mals(row: Mapping[str, Any], where: str) -> _Row:
    caption = _field(row, ("caption",), where)
    if not isinstance(caption, str):
        raise ValueError(f"{where}: 'caption' is {caption!r}, expected a string; correct the row")
    attributes = _field(row, ("label",), where)
    known = sum(attributes.count(value) for value in (0, 1, -1)) if isinstance(attributes, list) else 0
    if known != NUM_ATTRIBUTES or len(attributes) != NUM_ATTRIBUTES:
        raise ValueError(f"{where}: 'label' is {attributes!r}, expected {NUM_ATTRIBUTES} of 0, 1, -1; correct the row")
    image_path = _clean_path(_field(row, ("image",), where), where)
    # Every image of MALS is its own identity.
    return _Row(split="train", image_path=image_path, identity=image_path, captions=(caption,), attributes=tuple(attributes))


def _parse_coco(row: Mapping[str, Any], where: str) -> _Row:
    sentences = _field(row, ("sentences",), where)
    if not isinstance(sentences, list) or not sentences or not all(isinstance(sentence, dict) for sentence in sentences):
        raise ValueError(f"{where}: 'sentences' is {sentences!r}, expected a list of objects; correct the row")
    captions = _captions({"raw": [_field(sentence, ("raw",), where) for sentence in sentences]}, "raw", where)
    split = str(_field(row, ("split",), where))
    folder, name = (_clean_path(_field(row, (part,), where), where) for part in ("filepath", "filename"))
    return _Row(
        split="train" if split == "restval" else split,  # as ALBEF and others train: 82,783 + 30,504 images
        image_path=f"{folder}/{name}",
        identity=f"{folder}/{name}",
        captions=captions,
        attributes=None,
    )


def _parse_coco_split(row: Mapping[str, Any], split: str, where: str) -> _Row:
    image_path = _clean_path(_field(row, ("image",), where), where)
    captions = _captions(row, "caption", where)
    return _Row(split=split, image_path=image_path, identity=image_path, captions=captions, attributes=None)


def _clean_path(path: object, where: str) -> str:
    if not isinstance(path, str) or not path:
        raise ValueError(f"{where}: the image path is {path!r}, expected a relative path; correct the row")
    clean = path.replace("\\", "/").removeprefix("./")
    if clean.startswith("/") or ".." in clean.split("/"):
        raise ValueError(f"{where}: the image path {path!r} leaves the data set's folder; correct the row")
    return clean


@dataclass
class _SplitBuilder:
    """Collects the rows of one split; rows that name the same image add captions to it."""

    name: str
    image_paths: dict[str, int] = field(default_factory=dict)
    identities: dict[str, int] = field(default_factory=dict)
    image_identities: list[int] = field(default_factory=list)
    image_captions: list[int] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    caption_numbers: list[int] = field(default_factory=list)
    attributes: array[int] = field(default_factory=lambda: array("b"))

    def add(self, row: _Row, where: str) -> None:
        identity = self.identities.setdefault(row.identity, len(self.identities))
        image = self.image_paths.setdefault(row.image_path, len(self.image_paths))
        if image == len(self.image_identities):
            self.image_identities.append(identity)
            self.image_captions.append(0)
            if row.attributes is not None:
                self.attributes.extend(row.attributes)
        elif self.image_identities[image] != identity:
            raise ValueError(f"{where}: image {row.image_path} already belongs to another identity; correct the row")
        for caption in row.captions:
            self.captions.append(caption)
            self.images.append(image)
            self.caption_numbers.append(self.image_captions[image])
            self.image_captions[image] += 1

    def build(self) -> Split:
        return Split(
            name=self.name,
            image_path=StringColumn(self.image_paths),
            image_identity_I=np.array(self.image_identities, dtype=np.int64),
            caption=StringColumn(self.captions),
            image_N=np.array(self.images, dtype=np.int64),
            caption_number_N=np.array(self.caption_numbers, dtype=np.int64),
            attribute_IA=np.array(self.attributes).reshape(-1, NUM_ATTRIBUTES) if self.attributes else None,
        )
