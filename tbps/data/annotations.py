"""The annotations of a data set as columns, one set for each split.

Shapes: N pairs, I images, A attributes.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps.config.data import Benchmark
from tbps.data.annotation_rows import read_rows
from tbps.data.column import StringColumn
from tbps.data.finding import Finding
from tbps.data.image_files import ImageFiles, alike
from tbps.data.layouts import LAYOUTS, annotation_files
from tbps.data.official_split import with_official_split
from tbps.data.readers.row import Row
from tbps.data.sharing import Place, SharedPictures, shared_identities

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split as columns. A pair is one image with one of its captions; pairs lie in file order."""

    name: str
    image_path: StringColumn
    """(I) as in the annotation file, in one spelling: forward slashes, no `./`, no doubled slashes."""
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
    annotated_range_2: NDArray[np.int64]
    """(2,) smallest and largest id as annotated; (0, -1) where ids are no numbers or every image is an identity."""

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
    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The ids of each split as annotated; none of images that are identities of their own."""
    persons: bool = True
    """Whether every row says who is shown, so that one person is one identity."""
    findings: Sequence[Finding] = ()
    """What is odd or wrong in the rows themselves."""

    def split(self, name: str) -> Split:
        """The split called `name`. ValueError names those that exist."""
        if name not in self.splits:
            raise ValueError(
                f"{self.benchmark} at {self.root} has no split {name!r}: it has {', '.join(self.splits)}; choose one of them"
            )
        return self.splits[name]


def read_annotations(root: Path, benchmark: Benchmark) -> Annotations:
    """Read every split of `benchmark` below `root`, for training and evaluation.

    ValueError: as `parse_annotations`, and where test is not apart: an image of two identities, an identity or an image of
    test in another split. Shared by train and val, they are a warning. The disk is asked only for images whose paths differ
    in capital letters or extension alone; `tbps.data.dataset_doctor` looks at every one.
    """
    annotations = parse_annotations(root, benchmark)
    for finding in (*annotations.findings, *shared_by_name(annotations)):
        if finding.fatal:
            raise ValueError(
                f"{benchmark} at {root} has {finding.text()}; correct the rows (tbps data doctor --all names them all)"
            )
        logger.warning("%s at %s has %s", benchmark, root, finding.text())
    return annotations


def parse_annotations(root: Path, benchmark: Benchmark) -> Annotations:
    """As `read_annotations`, whatever its splits share: what is wrong in the rows is in `findings`.

    ValueError: the root holds no annotation file, a file is not JSON, a row lacks a field, or a split cannot be told.
    Images are not looked at.
    """
    rows: Iterable[Row] = (row for file in annotation_files(root, benchmark) for row in read_rows(file, benchmark))
    if benchmark == "cuhk-pedes":
        rows = with_official_split(list(rows))
    layout = LAYOUTS[benchmark]
    splits = {name: _SplitBuilder(name) for name in layout.splits}
    id_forms: dict[str, str] = {}
    persons = True
    for row in rows:
        if row.split not in splits:
            raise ValueError(f"{row.where}: split is {row.split!r}, expected one of {', '.join(splits)}; correct the row")
        splits[row.split].add(row)
        persons = persons and bool(row.id_form)
        if row.id_form:
            id_forms.setdefault(row.id_form, f"{row.identity} as {row.id_form}")
    filled = {name: builder for name, builder in splits.items() if builder.image_paths}
    if not filled:
        raise ValueError(f"{benchmark} at {root} has no row at all; download the annotations again, or write some")
    for name in splits.keys() - filled.keys() if layout.needed_splits else ():
        logger.warning("%s at %s has no row of split %s", benchmark, root, name)
    conflicts = tuple(name for builder in filled.values() for name in builder.conflicts)
    forms = tuple(id_forms.values()) if len(id_forms) > 1 else ()
    findings = (
        Finding(what="images of two identities", names=conflicts, fatal=True),
        Finding(what="ways of writing ids, read as the same numbers", names=forms, fatal=False),
        Finding(
            what="rows with other attributes than the first of their image, which count",
            names=tuple(name for builder in filled.values() for name in builder.other_attributes),
            fatal=False,
        ),
    )
    return Annotations(
        benchmark=benchmark,
        root=root,
        splits={name: builder.build() for name, builder in filled.items()},
        ids={name: tuple(one for one in builder.identities if one[0] != " ") for name, builder in filled.items()},
        persons=persons,
        findings=tuple(finding for finding in findings if finding.names),
    )


def shared_by_name(annotations: Annotations) -> Iterator[Finding]:
    """Identities and images that must not be shared or repeated, as far as ids and paths tell."""
    if len(annotations.splits) < 2 and not annotations.persons:
        return
    yield from shared_identities(annotations.ids)
    pictures = SharedPictures("images", same_path=True, persons=annotations.persons)
    files = ImageFiles(annotations.root, annotations.benchmark)
    stand = [(alike(place.name), place) for place in places(annotations)]
    first: dict[str, str] = {}
    doubtful = {key for key, place in stand if first.setdefault(key, place.name) != place.name}
    for key, place in stand:
        same: Hashable = place.name
        if key in doubtful:
            with suppress(ValueError, OSError):  # not there, or not now: whoever reads it says so
                same = files.same_file_key(place.name)
        pictures.add(same, place)
    yield from pictures.findings()


def places(annotations: Annotations) -> Iterator[Place]:
    """Where every image of every split stands."""
    for split in annotations.splits.values():
        for path, identity in zip(split.image_path, split.image_identity_I.tolist(), strict=True):
            yield Place(split=split.name, identity=identity, name=path)


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
    num_attributes: int = 0
    """Of each image; 0 until a row has some."""
    conflicts: list[str] = field(default_factory=list)
    """Images that a row gives to another identity than the rows before, and that row."""
    other_attributes: list[str] = field(default_factory=list)
    """Images of which a row tells other attributes than the first one, and that row."""

    def add(self, row: Row) -> None:
        identity = self.identities.setdefault(row.identity, len(self.identities))
        image = self.image_paths.setdefault(row.image_path, len(self.image_paths))
        if image == len(self.image_identities):
            self.image_identities.append(identity)
            self.image_captions.append(0)
            self._add_attributes(row.attributes)
        elif self.image_identities[image] != identity:
            self.conflicts.append(f"{row.image_path} ({row.where})")
        elif row.attributes is not None and self._attributes(image) != row.attributes:
            self.other_attributes.append(f"{row.image_path} ({row.where})")
        for caption in row.captions:
            self.captions.append(caption)
            self.images.append(image)
            self.caption_numbers.append(self.image_captions[image])
            self.image_captions[image] += 1

    def _attributes(self, image: int) -> tuple[int, ...]:
        return tuple(self.attributes[image * self.num_attributes : (image + 1) * self.num_attributes])

    def _add_attributes(self, attributes: tuple[int, ...] | None) -> None:
        """Of the image that was just added. Those of images without any are unknown, if others have some."""
        if attributes is not None and not self.num_attributes:
            self.num_attributes = len(attributes)
            self.attributes.extend([-1] * self.num_attributes * (len(self.image_identities) - 1))
        self.attributes.extend([-1] * self.num_attributes if attributes is None else attributes)

    def build(self) -> Split:
        return Split(
            name=self.name,
            image_path=StringColumn(self.image_paths),
            image_identity_I=np.array(self.image_identities, dtype=np.int64),
            caption=StringColumn(self.captions),
            image_N=np.array(self.images, dtype=np.int64),
            caption_number_N=np.array(self.caption_numbers, dtype=np.int64),
            attribute_IA=np.array(self.attributes).reshape(-1, self.num_attributes) if self.num_attributes else None,
            annotated_range_2=np.array(_range(self.identities), dtype=np.int64),
        )


def _range(ids: Iterable[str]) -> tuple[int, int]:
    numbers = [int(one) if one.isdecimal() else -1 for one in ids]
    # 18 digits fit into 64 bits
    return (min(numbers), max(numbers)) if numbers and min(numbers) >= 0 and max(numbers) < 10**18 else (0, -1)
