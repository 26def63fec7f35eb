"""Read pairs from webdataset tar shards by byte offset, and check shards.

A folder of shards holds `tbps-index.json` (what there is, with digests), one `<split>-index.npz` per split (where each
image lies) and `<split>-0000.tar`, ... Each image is two members, `<number>.<extension>` and `<number>.json` with its
captions, so any webdataset reader can stream the shards too.

Shapes: N pairs, I images.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps.data.pairs import IdentityIndex
from tbps.data.remote import PATIENCE_S, fetch, forget_damaged, is_remote, join, read_text, sha256_of, shown

INDEX_NAME = "tbps-index.json"
FORMAT_VERSION = 1
OPEN_FILES = 64
"""Shards that one process keeps open."""
TAR_BLOCK = 512
ADVICE = 'run "tbps data verify" and create the shards again'


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """One file of a shard folder as its index describes it."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSplit:
    """One split of a shard folder."""

    index: StoredFile
    shards: tuple[StoredFile, ...]
    num_pairs: int
    num_images: int
    num_identities: int


@dataclass(frozen=True, kw_only=True)
class MemberTable:
    """Where each image of a split lies; saved as `<split>-index.npz`."""

    shard_I: NDArray[np.int32]
    """(I,) number of the shard."""
    start_I2: NDArray[np.int64]
    """(I, 2) first content byte of the image, of its JSON."""
    size_I2: NDArray[np.int64]
    """(I, 2) bytes of the image, of its JSON."""
    crc_I2: NDArray[np.uint32]
    """(I, 2) CRC-32 of the image, of its JSON."""
    extension_I: NDArray[np.str_]
    """(I,) file name extension of the image, without the dot."""
    identity_I: NDArray[np.int64]
    image_N: NDArray[np.int64]
    """(N,) image of each pair."""
    caption_number_N: NDArray[np.int64]
    """(N,) which caption of the image."""


def member_name(image: int, extension: str) -> str:
    """Name of a tar member: the image's number in the split."""
    return f"{image:09d}.{extension}"


def read_index(root: str, *, cache: Path, patience_s: float = PATIENCE_S) -> dict[str, ShardSplit]:
    """The splits of a shard folder or URL. ValueError: no index, or one that this version cannot read."""
    place = shown(join(root, INDEX_NAME)) if is_remote(root) else str(Path(root) / INDEX_NAME)
    try:
        if is_remote(root):
            text = read_text(join(root, INDEX_NAME), cache=cache, patience_s=patience_s)
        else:
            text = Path(place).read_text(encoding="utf-8")
        index = json.loads(text)
        version = index["format"]
    except FileNotFoundError:
        raise ValueError(f'{root} holds no {INDEX_NAME}; give a folder made by "tbps data shard"') from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{place} is no shard index ({error}); {ADVICE}") from error
    if version != FORMAT_VERSION:
        raise ValueError(f"{place} has format {version}, expected {FORMAT_VERSION}; create the shards again")
    return {
        name: ShardSplit(
            **{**split, "index": StoredFile(**split["index"]), "shards": tuple(StoredFile(**one) for one in split["shards"])}
        )
        for name, split in index["splits"].items()
    }


class ShardPairs:
    """Pairs of a shard folder or URL: a `PairSource` equal to that of the folder that the shards were made from."""

    def __init__(self, root: str, split: str, *, cache: Path, limit_pairs: int = 0, patience_s: float = PATIENCE_S) -> None:
        """Remote shards are fetched whole into `cache` when a pair of theirs is first read; see `remote.fetch`."""
        splits = read_index(root, cache=cache, patience_s=patience_s)
        if split not in splits:
            raise ValueError(
                f"shards at {shown(root)} have no split {split!r}: they have {', '.join(splits)}; choose one of them"
            )
        self._root = root
        self._cache = cache
        self._patience_s = patience_s
        self._split = splits[split]
        if not is_remote(root):
            _check_sizes(Path(root), self._split)
        with np.load(self._local(self._split.index)) as arrays:
            self._table = MemberTable(**arrays)
        num_pairs = len(self._table.image_N)
        self._num_pairs = min(limit_pairs, num_pairs) if limit_pairs else num_pairs
        self.image_N = self._table.image_N[: self._num_pairs]
        self.identity_N = self._table.identity_I[self.image_N]
        self._identities = IdentityIndex(self.identity_N)
        self._open: OrderedDict[int, int] = OrderedDict()
        self._row: tuple[int, dict[str, Any]] = (-1, {})

    def __len__(self) -> int:
        return self._num_pairs

    def __getstate__(self) -> dict[str, Any]:
        # Open files do not travel to another process; they are opened again there.
        return {**self.__dict__, "_open": OrderedDict()}

    def key(self, index: int) -> str:
        """`<image path>#<caption number>`."""
        return f"{self._json(int(self.image_N[index]))['path']}#{self._table.caption_number_N[index]}"

    def caption(self, index: int) -> str:
        """The caption as annotated."""
        return self._json(int(self.image_N[index]))["captions"][self._table.caption_number_N[index]]

    def image_bytes(self, index: int) -> bytes:
        """The image file's bytes."""
        return self._member(int(self.image_N[index]), 0)

    def siblings(self, index: int) -> NDArray[np.int64]:
        """All pairs of the same identity, ascending."""
        return self._identities.pairs(int(self.identity_N[index]))

    def _json(self, image: int) -> dict[str, Any]:
        if self._row[0] != image:
            self._row = (image, json.loads(self._member(image, 1)))
        return self._row[1]

    def _member(self, image: int, part: int) -> bytes:
        """Content of the image (part 0) or of its JSON (part 1); a damaged copy of a remote shard is fetched once more."""
        shard = int(self._table.shard_I[image])
        file = self._split.shards[shard]
        descriptor = self._file(shard)
        try:
            return self._read(descriptor, image, part)
        except ValueError:
            if not is_remote(self._root):
                raise
        os.close(self._open.pop(shard))
        forget_damaged(join(self._root, file.name), cache=self._cache, sha256=file.sha256, patience_s=self._patience_s)
        return self._read(self._file(shard), image, part)

    def _read(self, descriptor: int, image: int, part: int) -> bytes:
        """Content of a member, after its tar header and CRC have been checked."""
        shard = int(self._table.shard_I[image])
        start, size = int(self._table.start_I2[image, part]), int(self._table.size_I2[image, part])
        expected = member_name(image, "json" if part else str(self._table.extension_I[image]))
        block = os.pread(descriptor, TAR_BLOCK + size, start - TAR_BLOCK)
        where = f"shard {self._split.shards[shard].name}: member {expected} at byte {start}"
        if len(block) < TAR_BLOCK + size:
            raise ValueError(f"{where} ends after {max(0, len(block) - TAR_BLOCK)} of {size} bytes; {ADVICE}")
        found = block[:100].rstrip(b"\0").decode(errors="replace")
        if found != expected:
            raise ValueError(f"{where} is {found!r}; the shard was changed: {ADVICE}")
        if zlib.crc32(block[TAR_BLOCK:]) != self._table.crc_I2[image, part]:
            raise ValueError(f"{where} has other content than its index says; the shard was changed: {ADVICE}")
        return block[TAR_BLOCK:]

    def _file(self, shard: int) -> int:
        """A file descriptor of the shard; the least recently used one is closed when too many are open."""
        if shard not in self._open:
            self._open[shard] = os.open(self._local(self._split.shards[shard]), os.O_RDONLY)
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        return self._open[shard]

    def _local(self, file: StoredFile) -> Path:
        if not is_remote(self._root):
            return Path(self._root) / file.name
        return fetch(
            join(self._root, file.name),
            cache=self._cache,
            sha256=file.sha256,
            num_bytes=file.num_bytes,
            patience_s=self._patience_s,
        )


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


def verify_shards(root: Path) -> list[str]:
    """Read every file of a shard folder and compare its size and sha256 with the index; returns one line per problem."""
    problems = []
    for split in read_index(str(root), cache=root).values():
        for file in (split.index, *split.shards):
            problem = _size_problem(root, file)
            if not problem and (found := sha256_of(root / file.name)) != file.sha256:
                problem = f"shard {file.name}: sha256 is {found[:12]}, expected {file.sha256[:12]}"
            if problem:
                problems.append(problem)
    return problems
