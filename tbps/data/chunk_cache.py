"""Chunks of a corpus, found once and kept in one file: a parser costs milliseconds a caption.

The file (safetensors) holds N captions: `key_N` sorted hashes, `first` (N + 1) rows, `word_M3` (start, end, chunk) of every
noun and adjective. A key is 64 bits of a hash of the chunker's name and the cleaned caption; among two million captions two
collide with a chance of 1e-7. One file serves any number of chunkers and corpora.
"""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from tbps.data.chunks import Chunker, ContentWord

logger = logging.getLogger(__name__)

_FIELDS = {"key_N", "first", "word_M3"}


@dataclass(frozen=True, kw_only=True)
class _Table:
    key_N: np.ndarray
    first: np.ndarray
    word_M3: np.ndarray

    @classmethod
    def of(cls, rows: Mapping[int, np.ndarray]) -> _Table:
        keys = sorted(rows)
        words = [rows[key] for key in keys]
        return cls(
            key_N=np.array(keys, dtype=np.int64),
            first=np.cumsum([0, *map(len, words)], dtype=np.int64),
            word_M3=np.concatenate([np.zeros((0, 3), np.int32), *words]),
        )

    @classmethod
    def load(cls, path: Path) -> _Table:
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"chunk cache {path} cannot be read ({error}); remove it and it is made again") from error
        if set(tensors) != _FIELDS:
            raise ValueError(
                f"chunk cache {path} holds {', '.join(sorted(tensors))}, expected {', '.join(sorted(_FIELDS))}; it is"
                " another file: choose another path for the cache"
            )
        return cls(**tensors)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as file:
                file.write(save({"key_N": self.key_N, "first": self.first, "word_M3": self.word_M3}))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def find(self, key: int) -> np.ndarray | None:
        place = int(np.searchsorted(self.key_N, key))
        if place == len(self.key_N) or self.key_N[place] != key:
            return None
        return self.word_M3[self.first[place] : self.first[place + 1]]

    def rows(self) -> dict[int, np.ndarray]:
        bounds = self.first.tolist()
        return {key: self.word_M3[bounds[n] : bounds[n + 1]] for n, key in enumerate(self.key_N.tolist())}


class ChunkCache:
    """A chunker that remembers: looks into the file at `path`, then among the last `keep` others, then asks `chunker`.

    The file is read whole (about 100 bytes a caption) and not written: `build_chunk_cache` does that. Picklable.
    Raises ValueError where the file is damaged or another one.
    """

    def __init__(self, chunker: Chunker, *, path: Path | None = None, keep: int = 131_072) -> None:
        self.chunker = chunker
        self.keep = keep
        self._table = _Table.load(path) if path is not None and path.exists() else _Table.of({})
        self._recent: dict[int, np.ndarray] = {}
        self._name = chunker.name

    @property
    def name(self) -> str:
        """The chunker's."""
        return self._name

    def __len__(self) -> int:
        return len(self._table.key_N) + len(self._recent)

    def words(self, captions: Iterable[str]) -> Iterator[tuple[ContentWord, ...]]:
        """Nouns and adjectives of each caption, as `chunker` found them."""
        for caption in captions:
            yield tuple(ContentWord(*row) for row in self._row(caption).tolist())

    def _row(self, caption: str) -> np.ndarray:
        key = _key(self._name, caption)
        row = self._table.find(key)
        if row is None:
            row = self._recent.get(key)
        if row is None:
            row = _packed(next(iter(self.chunker.words([caption]))))
            if len(self._recent) >= self.keep:
                del self._recent[next(iter(self._recent))]
            self._recent[key] = row
        return row


def build_chunk_cache(captions: Iterable[str], chunker: Chunker, path: Path) -> ChunkCache:
    """Find the chunks of the cleaned captions that `path` does not hold yet, add them to it, and return the cache.

    Any number of processes may do this at once: each writes a whole file and renames it over the old one, after merging
    what others wrote meanwhile. In the worst case work is done twice; a reader never sees half a file.
    Raises ValueError where the file is damaged or another one.
    """
    cache = ChunkCache(chunker, path=path)
    known = set(cache._table.key_N.tolist())
    missing = {key: caption for caption in captions if (key := _key(cache.name, caption)) not in known}
    if missing:
        logger.info("finding attribute chunks of %d captions (%s)", len(missing), cache.name)
        found = {key: _packed(words) for key, words in zip(missing, chunker.words(missing.values()))}
        others = _Table.load(path) if path.exists() else _Table.of({})
        cache._table = _Table.of(others.rows() | found)
        cache._table.save(path)
    return cache


def _key(name: str, caption: str) -> int:
    digest = hashlib.blake2b(f"{name}\0{caption}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _packed(words: Iterable[ContentWord]) -> np.ndarray:
    return np.array(list(words), dtype=np.int32).reshape(-1, 3)
