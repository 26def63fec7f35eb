"""Read pairs from webdataset tar shards by byte offset, and check shards. See `shard_index` for what a folder holds.

Shapes: N pairs, I images.
"""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tbps.config.data import LabelSetName
from tbps.data.identity_index import IdentityIndex
from tbps.data.label_maps import check_map
from tbps.data.label_sets import LABEL_SETS
from tbps.data.remote import PATIENCE_S, fetch, forget_damaged, is_remote, join, sha256_of, shown
from tbps.data.shard_index import ADVICE, MapPlaces, MemberTable, ShardSplit, StoredFile, read_index

OPEN_FILES = 64
"""Shards that one process keeps open."""


class ShardPairs:
    """Pairs of a shard folder or URL: a `PairSource` equal to that of the folder that the shards were made from."""

    def __init__(self, root: str, split: str, *, cache: Path, limit_pairs: int = 0, patience_s: float = PATIENCE_S) -> None:
        """Remote shards are fetched whole into `cache` when a pair of theirs is first read; see `remote.fetch`."""
        splits = read_index(root, cache=cache, patience_s=patience_s)
        if split not in splits:
            have = ", ".join(splits)
            raise ValueError(f"shards at {shown(root)} have no split {split!r}: they have {have}; choose one of them")
        self.root = root
        self._cache = cache
        self._patience_s = patience_s
        self._split = splits[split]
        if not is_remote(root):
            _check_sizes(Path(root), self._split)
        self._table = self._map_table()
        num_pairs = len(self._table.image_N)
        self._num_pairs = min(limit_pairs, num_pairs) if limit_pairs else num_pairs
        self.image_N = self._table.image_N[: self._num_pairs]
        self.identity_N = self._table.identity_I[self.image_N]
        self._identities = IdentityIndex(self.identity_N)
        self.annotated_range: tuple[int, int] | None = None  # the index holds identities counted from 0
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return self._num_pairs

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel to another process; they are opened again there.
        return {**self.__dict__, "_open": OrderedDict()}

    def key(self, index: int) -> str:
        """`<image path>#<caption number>`."""
        return f"{self._table.image_path[int(self.image_N[index])]}#{self._table.caption_number_N[index]}"

    def caption(self, index: int) -> str:
        """The caption as annotated."""
        return self._table.caption[index]

    def captions_digest(self) -> str:
        """That of the split's index, which holds every caption."""
        return self._split.index.sha256

    def image_bytes(self, index: int) -> bytes:
        """The image file's bytes; a damaged copy of a remote shard is fetched once more."""
        image, table = int(self.image_N[index]), self._table
        return self._member(image, _Place("image", table.start_I[image], table.size_I[image], table.crc_I[image]))

    def parsing_bytes(self, index: int, label_set: LabelSetName) -> bytes:
        """The file of the image's parsing map."""
        places = self._map_places(label_set)
        image = int(self.image_N[index])
        place = _Place("parsing map of image", places.start_I[image], places.size_I[image], places.crc_I[image])
        return self._member(image, place)

    def check_parsing(self, label_set: LabelSetName) -> None:
        """That the shards bring maps of the set, of the first pair; all of them were checked as they were packed."""
        check_map(self.parsing_bytes(0, label_set), LABEL_SETS[label_set], image_bytes=self.image_bytes(0))

    def _map_places(self, label_set: LabelSetName) -> MapPlaces:
        if label_set not in self._table.maps:
            title = LABEL_SETS[label_set].title
            brought = ", ".join(LABEL_SETS[name].title for name in self._table.maps)
            raise ValueError(
                f"the shards at {shown(self.root)} bring no parsing maps of {title}"
                + (f", only of {brought}" if brought else "")
                + f"; make them again with tbps data shard --parsing {label_set}"
            )
        return self._table.maps[label_set]

    def attributes(self, index: int) -> NDArray[np.int8]:
        """(A,) the image's attributes."""
        if self._table.attribute_IA is None:
            raise ValueError(
                f"the shards at {shown(self.root)} bring no attributes; make them again from MALS, which has them"
            )
        return self._table.attribute_IA[int(self.image_N[index])]

    def siblings(self, index: int) -> NDArray[np.int64]:
        """All pairs of the same identity, ascending."""
        return self._identities.pairs(int(self.identity_N[index]))

    def _map_table(self) -> MemberTable:
        """The table, after all of it has been checked: what it says is believed of every pair."""
        file = self._split.index
        path = self._local(file)
        if (found := sha256_of(path)) != file.sha256:
            if not is_remote(self.root):
                raise ValueError(f"{_digest_problem(file, found)}; {ADVICE}")
            self._forget_damaged(file)
            path = self._local(file)
        return MemberTable.map(path)

    def _member(self, image: int, place: _Place) -> bytes:
        """A member of the image's shard; a damaged copy of a remote shard is fetched once more."""
        shard = int(self._table.shard_I[image])
        try:
            return self._read(self._file(shard), image, place)
        except _Damaged:
            if not is_remote(self.root):
                raise
        os.close(self._open.pop(shard))
        self._forget_damaged(self._split.shards[shard])
        return self._read(self._file(shard), image, place)

    def _read(self, file: int, image: int, place: _Place) -> bytes:
        """Content of the member, after its CRC has been checked."""
        content = os.pread(file, int(place.size), int(place.start))
        if len(content) == place.size and zlib.crc32(content) == place.crc:
            return content
        shard = self._split.shards[int(self._table.shard_I[image])].name
        where = f"shard {shard}: {place.what} {self._table.image_path[image]} at byte {place.start}"
        if len(content) < place.size:
            raise _Damaged(f"{where} ends after {len(content)} of {place.size} bytes; {ADVICE}")
        raise _Damaged(f"{where} has other content than its index says; the shard was changed: {ADVICE}")

    def _file(self, shard: int) -> int:
        """A file descriptor of the shard; the least recently used one is closed when too many are open."""
        if shard not in self._open:
            self._open[shard] = os.open(self._local(self._split.shards[shard]), os.O_RDONLY)
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        return self._open[shard]

    def _local(self, file: StoredFile) -> Path:
        if not is_remote(self.root):
            return Path(self.root) / file.name
        return fetch(
            join(self.root, file.name),
            cache=self._cache,
            sha256=file.sha256,
            num_bytes=file.num_bytes,
            patience_s=self._patience_s,
        )

    def _forget_damaged(self, file: StoredFile) -> None:
        url = join(self.root, file.name)
        forget_damaged(url, cache=self._cache, sha256=file.sha256, patience_s=self._patience_s)


class _Place(NamedTuple):
    """Where a member lies in its shard."""

    what: str
    start: np.int64
    size: np.int64
    crc: np.uint32


class _Damaged(ValueError):
    """A member is not what the table says."""


def _check_sizes(root: Path, split: ShardSplit) -> None:
    for file in (split.index, *split.shards):
        if problem := _size_problem(root, file):
            raise ValueError(f"{problem}; {ADVICE}")


def _size_problem(root: Path, file: StoredFile) -> str:
    path = root / file.name
    if not path.is_file():
        return f"shard {file.name}: missing in {root}"
    if (found := path.stat().st_size) != file.num_bytes:
        return f"shard {file.name}: {found} bytes, expected {file.num_bytes}"
    return ""


def _digest_problem(file: StoredFile, found: str) -> str:
    return f"shard {file.name}: sha256 is {found[:12]}, expected {file.sha256[:12]}"


def verify_shards(root: Path) -> list[str]:
    """Read every file of a shard folder and compare its size and sha256 with the index; returns one line per problem."""
    problems = []
    for split in read_index(str(root), cache=root).values():
        for file in (split.index, *split.shards):
            problem = _size_problem(root, file)
            if not problem and (found := sha256_of(root / file.name)) != file.sha256:
                problem = _digest_problem(file, found)
            if problem:
                problems.append(problem)
    return problems
