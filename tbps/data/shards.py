"""Read pairs from webdataset tar shards by byte offset, and check shards. See `shard_index` for what a folder holds.

Shapes: N pairs, I images.
"""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tbps.config.data import LabelSetName
from tbps.data.cache_room import BYTES_PER_MB, CacheRoom
from tbps.data.identity_index import IdentityIndex, StoredIdentities
from tbps.data.label_maps import check_map
from tbps.data.label_sets import LABEL_SETS
from tbps.data.remote import PATIENCE_S, fetch, fetch_open, forget_damaged, is_remote, join, sha256_of, shown
from tbps.data.shard_index import ADVICE, MapPlaces, MemberTable, Numbers, ShardSplit, StoredFile, read_index
from tbps.data.stored_columns import StoredBytes, StoredColumn

OPEN_FILES = 64
"""Shards that one process keeps open."""
CHECKED_AT_ONCE_BYTES = 1 << 26
"""Tables up to this size are read whole at the start, and compared with their sha256: a tenth of a second at most."""


class ShardPairs:
    """Pairs of a shard folder or URL: a `PairSource` equal to that of the folder that the shards were made from."""

    def __init__(
        self,
        root: str,
        split: str,
        *,
        cache: Path,
        cache_mb: int = 0,
        limit_pairs: int = 0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Remote shards are fetched whole into `cache` when a pair of theirs is read; see `remote.fetch`.

        cache_mb: megabytes of shards that may lie there, 0 = all; the ones read longest ago make way.
        """
        splits = read_index(root, cache=cache, patience_s=patience_s)
        if split not in splits:
            have = ", ".join(splits)
            raise ValueError(f"shards at {shown(root)} have no split {split!r}: they have {have}; choose one of them")
        self.root = root
        self._cache = cache
        self._patience_s = patience_s
        self._split = splits[split]
        self._room: CacheRoom | None = None
        if not is_remote(root):
            _check_sizes(Path(root), self._split)
        elif cache_mb:
            self._room = CacheRoom(cache, most_bytes=cache_mb * BYTES_PER_MB)
            self._room.check({file.name: file.num_bytes for file in self._split.shards}, num_pairs=self._split.num_pairs)
        self._table = self._map_table()
        num_pairs = len(self._table.image_N)
        self._num_pairs = min(limit_pairs, num_pairs) if limit_pairs else num_pairs
        # Of an older index that does not name the pairs of each identity.
        self._identities = None if self._split.by_identity else IdentityIndex(self.identity_N)
        self.annotated_range: tuple[int, int] | None = None  # the index holds identities counted from 0
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return self._num_pairs

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel to another process; they are opened again there.
        made = ("identity_N", "image_N")
        return {**{name: value for name, value in self.__dict__.items() if name not in made}, "_open": OrderedDict()}

    @cached_property
    def image_N(self) -> NDArray[np.int64]:
        """(N,) which image of the split each pair shows, in memory."""
        return np.concatenate(list(_stored(self._table.image_N).blocks(self._num_pairs)))

    @cached_property
    def identity_N(self) -> NDArray[np.int64]:
        """(N,) dense identities from 0, in memory."""
        identity_I = _stored(self._table.identity_I)
        return np.concatenate(list(identity_I.blocks(len(identity_I))))[self.image_N]

    @property
    def num_identities(self) -> int:
        """Of all pairs: as the index says."""
        if self._num_pairs == self._split.num_pairs:
            return self._split.num_identities
        return int(self.identity_N.max()) + 1

    @property
    def num_images(self) -> int:
        """Of all pairs: as the index says."""
        if self._num_pairs == self._split.num_pairs:
            return self._split.num_images
        return int(self.image_N.max()) + 1

    def identity(self, index: int) -> int:
        """Who is shown."""
        return int(self._table.identity_I[self.image(index)])

    def image(self, index: int) -> int:
        """Which image is shown."""
        if not 0 <= index < self._num_pairs:
            raise IndexError(f"pair {index} of {self._num_pairs}")
        return int(self._table.image_N[index])

    def key(self, index: int) -> str:
        """`<image path>#<caption number>`."""
        return f"{self._table.image_path[self.image(index)]}#{self._table.caption_number_N[index]}"

    def caption(self, index: int) -> str:
        """The caption as annotated."""
        return self._table.caption[index]

    def captions_digest(self) -> str:
        """That of the split's index, which holds every caption."""
        return self._split.index.sha256

    def image_bytes(self, index: int) -> bytes:
        """The image file's bytes; a damaged copy of a remote shard is fetched once more."""
        image, table = self.image(index), self._table
        return self._member(image, _Place.of("image", table, image))

    def image_size_and_crc(self, index: int) -> tuple[int, int]:
        """Bytes of the image file, and their CRC-32."""
        image = self.image(index)
        return int(self._table.size_I[image]), int(self._table.crc_I[image])

    def parsing_bytes(self, index: int, label_set: LabelSetName) -> bytes:
        """The file of the image's parsing map."""
        places = self._map_places(label_set)
        image = self.image(index)
        return self._member(image, _Place.of("parsing map of image", places, image))

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
                f"the shards at {shown(self.root)} bring no attributes; make them again from data that have them"
            )
        return self._table.attribute_IA[self.image(index)]

    def siblings(self, index: int) -> NDArray[np.int64]:
        """All pairs of the same identity, ascending."""
        if self._identities is not None:
            return self._identities.pairs(self.identity(index))
        by_identity_N = self._table.by_identity_N
        stored = StoredIdentities(
            len(self._table.image_N),
            identity=lambda pair: int(self._table.identity_I[int(self._table.image_N[pair])]),
            pair_at=int if by_identity_N is None else lambda place: int(by_identity_N[place]),
        )
        return stored.pairs(self.identity(index), below=self._num_pairs)

    def _map_table(self) -> MemberTable:
        """The table, checked, as what it says is believed of every pair: a large one piece by piece, as it is read."""
        file, pieces = self._split.index, self._split.pieces
        if pieces is not None and file.num_bytes > CHECKED_AT_ONCE_BYTES:
            crc_P = np.fromfile(self._checked(pieces), dtype="<u4")
            return MemberTable.of(StoredBytes(self._local(file), crc_P=crc_P, damage=self._table_damage))
        return MemberTable.of(StoredBytes(self._checked(file), crc_P=None, damage=self._table_damage))

    def _checked(self, file: StoredFile) -> Path:
        """A local file of that content. ValueError: it is another one; a damaged copy of a remote file is fetched again."""
        path = self._local(file)
        if (found := sha256_of(path)) != file.sha256:
            if not is_remote(self.root):
                raise ValueError(f"{_digest_problem(file, found)}; {ADVICE}")
            self._forget_damaged(file)
            path = self._local(file)
        return path

    def _table_damage(self, first: int, last: int) -> str:
        """What to say where bytes of the table are not what the index says."""
        where = f"shard {self._split.index.name}: bytes {first} to {last} have other content than the index says"
        if not is_remote(self.root):
            return f"{where}; {ADVICE}"
        self._forget_damaged(self._split.index)
        return f"{where}; the copy in {self._cache} is removed: the same command fetches it once more"

    def _member(self, image: int, place: _Place) -> bytes:
        """A member of the image's shard; a damaged copy of a remote shard is fetched once more."""
        shard = int(self._table.shard_I[image])
        try:
            with self._opened(shard) as file:
                return self._read(file, image, place)
        except _Damaged:
            if not is_remote(self.root):
                raise
        if shard in self._open:
            os.close(self._open.pop(shard))
        self._forget_damaged(self._split.shards[shard])
        with self._opened(shard) as file:
            return self._read(file, image, place)

    def _read(self, file: int, image: int, place: _Place) -> bytes:
        """Content of the member, after its CRC has been checked."""
        content = os.pread(file, place.size, place.start)
        if len(content) == place.size and zlib.crc32(content) == place.crc:
            return content
        shard = self._split.shards[int(self._table.shard_I[image])].name
        where = f"shard {shard}: {place.what} {self._table.image_path[image]} at byte {place.start}"
        if len(content) < place.size:
            raise _Damaged(f"{where} ends after {len(content)} of {place.size} bytes; {ADVICE}")
        raise _Damaged(f"{where} has other content than its index says; the shard was changed: {ADVICE}")

    @contextmanager
    def _opened(self, shard: int) -> Iterator[int]:
        """A file descriptor of the shard; where the cache is bounded, it is closed at once, as evicted files take room."""
        if self._room is None:
            yield self._file(shard)
            return
        stored = self._split.shards[shard]
        file = fetch_open(
            join(self.root, stored.name),
            cache=self._cache,
            sha256=stored.sha256,
            num_bytes=stored.num_bytes,
            patience_s=self._patience_s,
            room=self._room,
        )
        try:
            yield file
        finally:
            os.close(file)

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
    start: int
    size: int
    crc: int

    @classmethod
    def of(cls, what: str, places: MemberTable | MapPlaces, image: int) -> _Place:
        return cls(what, int(places.start_I[image]), int(places.size_I[image]), int(places.crc_I[image]))


class _Damaged(ValueError):
    """A member is not what the table says."""


def _stored(column: Numbers) -> StoredColumn:
    assert isinstance(column, StoredColumn), "tables in memory are for writing"
    return column


def _files(split: ShardSplit) -> tuple[StoredFile, ...]:
    return (split.index, *([] if split.pieces is None else [split.pieces]), *split.shards)


def _check_sizes(root: Path, split: ShardSplit) -> None:
    for file in _files(split):
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
        for file in _files(split):
            problem = _size_problem(root, file)
            if not problem and (found := sha256_of(root / file.name)) != file.sha256:
                problem = _digest_problem(file, found)
            if problem:
                problems.append(problem)
    return problems
