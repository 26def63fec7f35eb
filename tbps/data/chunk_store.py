"""Chunks of a corpus, found once and kept on a disk in portions: a parser costs milliseconds a caption.

A folder holds the portions of one corpus, found by one chunker: `portion-00003-of-00010.safetensors` and so on. A caption
lies in the portion "its key modulo their number", whatever its pair; the key is 64 bits of a hash of the cleaned caption
(all of it, however many words an encoder keeps), so among two million captions two collide with a chance of 1e-7. A portion
is written whole or not at all, by whoever finds it, so a kill loses what was begun and no more. Portions are mapped into
memory: all processes of a machine share one copy.

Shapes: N captions of a portion, M nouns and adjectives in them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from tbps.text.chunks import Chunker, ContentWord

logger = logging.getLogger(__name__)

PORTION_CAPTIONS = 8192
"""About half a minute of spaCy, three seconds of the built-in chunker, one megabyte."""
_FIELDS = {"key_N", "first", "word_M3"}
_LEFT_BEHIND_S = 3600.0
_WORD_EVERY_S = 30.0


def num_portions(num_pairs: int) -> int:
    """How many portions a corpus of so many pairs is kept in."""
    return max(1, -(-num_pairs // PORTION_CAPTIONS))


class ChunkStore:
    """The folder of portions, to write to. It is made when it is first written to."""

    def __init__(self, folder: Path, *, portions: int) -> None:
        self.folder = folder
        self.portions = portions

    def file(self, portion: int) -> Path:
        """Where a portion lies."""
        return self.folder / f"portion-{portion:05d}-of-{self.portions:05d}.safetensors"

    @property
    def files(self) -> list[Path]:
        """Where all of them lie."""
        return [self.file(portion) for portion in range(self.portions)]

    def held(self) -> set[int]:
        """The portions that are there and whole; a damaged one is removed, in words."""
        held = set()
        for portion in range(self.portions):
            if self.file(portion).exists():
                try:
                    _Portion(self.file(portion))
                    held.add(portion)
                except ValueError as error:
                    logger.warning("%s; it is removed and found again", error)
                    self.file(portion).unlink(missing_ok=True)
        for aside in self.folder.glob(".portion-*"):  # of who was killed while writing
            if time.time() - aside.stat().st_mtime > _LEFT_BEHIND_S:
                aside.unlink(missing_ok=True)
        return held

    def find(self, portions: Sequence[int], captions: Iterable[str], chunker: Chunker) -> None:
        """Find and keep the chunks of those cleaned captions of a corpus that belong into `portions`.

        Any number of processes may do the same at once: they begin at random places, and leave out what others have kept.
        """
        waiting: dict[int, dict[int, str]] = {portion: {} for portion in portions}
        for caption in captions:
            key = _key(caption)
            if (wanted := waiting.get(key % self.portions)) is not None:
                wanted[key] = caption
        order = random.SystemRandom().sample(list(waiting), len(waiting))
        told = began = time.monotonic()
        for done, portion in enumerate(order):
            if self.file(portion).exists():
                continue
            self.keep(portion, _found(waiting.pop(portion), chunker))
            if time.monotonic() - told > _WORD_EVERY_S:
                told = time.monotonic()
                logger.info("attribute chunks: %d of %d portions after %.0f s", done + 1, len(order), told - began)

    def keep(self, portion: int, content: bytes) -> None:
        """Write a portion; whole or not there, also after a power cut."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f".{self.file(portion).name}.{uuid.uuid4().hex}"
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.file(portion))
        finally:
            aside.unlink(missing_ok=True)


class KeptChunks:
    """A `Chunker` that looks up what the portions of a corpus hold, and finds nothing itself. Picklable.

    ValueError: a portion is missing or damaged.
    """

    def __init__(self, files: Sequence[Path], *, name: str) -> None:
        """`files`: all portions, in order; name: of the chunker that found them."""
        self.name = name
        self._files = list(files)
        self._portions = [_Portion(file) for file in files]

    def __len__(self) -> int:
        return sum(len(portion.key_N) for portion in self._portions)

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self._files, "name": self.name}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def words(self, captions: Iterable[str]) -> Iterator[tuple[ContentWord, ...]]:
        """Nouns and adjectives of each cleaned caption. ValueError for a caption that the corpus does not have."""
        for caption in captions:
            found = self.find(caption)
            if found is None:
                raise ValueError(
                    f"caption {caption[:80]!r} is not among those whose attribute chunks {self.folder} keeps;"
                    " remove that folder and start again"
                )
            yield found

    @property
    def folder(self) -> Path:
        """Where the portions lie."""
        return self._files[0].parent

    def find(self, caption: str) -> tuple[ContentWord, ...] | None:
        """Nouns and adjectives of a cleaned caption; None where the corpus does not have it."""
        key = _key(caption)
        row_R3 = self._portions[key % len(self._portions)].find(key)
        return None if row_R3 is None else tuple(ContentWord(*row) for row in row_R3.tolist())

    def counts(self) -> Counter[str]:
        """How often each noun and adjective occurs in the different captions of the corpus."""
        total: Counter[str] = Counter()
        for portion in self._portions:
            total.update(portion.counts())
        return total


class JoinedChunks:
    """Those of several corpora as one `Chunker`. Picklable."""

    def __init__(self, corpora: Sequence[KeptChunks]) -> None:
        """All found by one chunker."""
        self.name = corpora[0].name
        self._corpora = tuple(corpora)

    def words(self, captions: Iterable[str]) -> Iterator[tuple[ContentWord, ...]]:
        """Nouns and adjectives of each cleaned caption. ValueError for a caption that no corpus has."""
        for caption in captions:
            found = next((one for corpus in self._corpora if (one := corpus.find(caption)) is not None), None)
            if found is None:
                folders = ", ".join(str(corpus.folder) for corpus in self._corpora)
                raise ValueError(
                    f"caption {caption[:80]!r} is not among those whose attribute chunks {folders} keep; remove those"
                    " folders and start again"
                )
            yield found

    def counts(self) -> Counter[str]:
        """How often each noun and adjective occurs in the different captions of each corpus."""
        return sum((corpus.counts() for corpus in self._corpora), Counter())


class _Portion:
    """One file of captions, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, framework="pt") as file:
                if set(file.keys()) != _FIELDS:
                    raise ValueError(f"chunk portion {path} holds {', '.join(sorted(file.keys()))}")
                self.key_N, self.first, self.word_M3 = (
                    file.get_tensor(name).numpy() for name in ("key_N", "first", "word_M3")
                )
                file.metadata()["counts"]  # they have to be there
        except (SafetensorError, OSError, TypeError, KeyError) as error:
            raise ValueError(f"chunk portion {path} cannot be read ({error})") from error

    def counts(self) -> dict[str, int]:
        """How often each noun and adjective occurs: read when asked for, as all words of all portions are many."""
        with safe_open(self._path, framework="pt") as file:
            return dict(json.loads(file.metadata()["counts"]))

    def find(self, key: int) -> np.ndarray | None:
        place = int(np.searchsorted(self.key_N, key))
        if place == len(self.key_N) or self.key_N[place] != key:
            return None
        return self.word_M3[self.first[place] : self.first[place + 1]]


def _found(captions: Mapping[int, str], chunker: Chunker) -> bytes:
    """A portion's file: `key_N` ascending, `first` (N + 1) rows, `word_M3` (start, end, chunk); counts as metadata."""
    keys = sorted(captions)
    texts = [captions[key] for key in keys]
    words = list(chunker.words(texts))
    counts = Counter(text[word.start : word.end] for text, found in zip(texts, words, strict=True) for word in found)
    rows = [np.array(found, dtype=np.int32).reshape(-1, 3) for found in words]
    tensors = {
        "key_N": torch.tensor(keys, dtype=torch.int64),
        "first": torch.tensor([0, *map(len, rows)]).cumsum(0),
        "word_M3": torch.from_numpy(np.concatenate([np.zeros((0, 3), np.int32), *rows])),
    }
    return save(tensors, metadata={"counts": json.dumps(counts)})


def _key(caption: str) -> int:
    digest = hashlib.blake2b(caption.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
