"""Training pairs of several data sets as one `PairSource`: which pair is whose, and in which order they come.

Pairs, images and identities of the second data set are numbered after those of the first, and so on, so no two are one. Keys
begin with the name of their data set.
"""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tbps.config.data import Benchmark, Data, LabelSetName
from tbps.data.pairs import PairSource, open_pairs
from tbps.data.remote import PATIENCE_S, shown
from tbps.data.sample_order import MixtureOrder, Order, PairOrder, Share

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One data set of a mixture."""

    name: str
    root: str
    weight: int
    """Of so many pairs as all weights together, how many are of it."""
    pairs: PairSource


class MixedPairs:
    """The pairs of all parts, one part after the other: a `PairSource`."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """parts: two or more."""
        self.parts = tuple(parts)
        each = [part.pairs for part in parts]
        self._first_pair = _starts([len(pairs) for pairs in each])
        self._first_image = _starts([pairs.num_images for pairs in each])
        self._first_identity = _starts([pairs.num_identities for pairs in each])
        self.annotated_range: tuple[int, int] | None = None  # ids of different data sets have nothing in common
        attributes = [_first_attributes(part.pairs) for part in parts]
        self._annotates = [one is not None for one in attributes]
        known = [one for one in attributes if one is not None]
        self._unknown_A = np.full_like(known[0], -1) if known else None

    def __len__(self) -> int:
        return self._first_pair[-1]

    @property
    def first_pairs(self) -> tuple[int, ...]:
        """The first pair of every part."""
        return tuple(self._first_pair[:-1])

    @property
    def identity_N(self) -> NDArray[np.int64]:
        """(N,) dense identities from 0."""
        each = zip(self.parts, self._first_identity, strict=False)
        return np.concatenate([part.pairs.identity_N + first for part, first in each])

    @property
    def image_N(self) -> NDArray[np.int64]:
        """(N,) which image each pair shows."""
        return np.concatenate(
            [part.pairs.image_N + first for part, first in zip(self.parts, self._first_image, strict=False)]
        )

    @property
    def num_identities(self) -> int:
        """Of all parts."""
        return self._first_identity[-1]

    @property
    def num_images(self) -> int:
        """Of all parts."""
        return self._first_image[-1]

    def identity(self, index: int) -> int:
        """Who is shown."""
        part, own = self._place(index)
        return self._first_identity[part] + self.parts[part].pairs.identity(own)

    def image(self, index: int) -> int:
        """Which image is shown."""
        part, own = self._place(index)
        return self._first_image[part] + self.parts[part].pairs.image(own)

    def key(self, index: int) -> str:
        """`<name of the data set>/<image path>#<caption number>`."""
        part, own = self._place(index)
        return f"{self.parts[part].name}/{self.parts[part].pairs.key(own)}"

    def caption(self, index: int) -> str:
        """The caption as annotated."""
        part, own = self._place(index)
        return self.parts[part].pairs.caption(own)

    def captions_digest(self) -> str:
        """Of the digests of the parts."""
        return hashlib.sha256("\n".join(part.pairs.captions_digest() for part in self.parts).encode()).hexdigest()

    def image_bytes(self, index: int) -> bytes:
        """The image file's bytes."""
        part, own = self._place(index)
        return self.parts[part].pairs.image_bytes(own)

    def siblings(self, index: int) -> NDArray[np.int64]:
        """All pairs of the same identity, ascending: they are of the same data set."""
        part, own = self._place(index)
        return self.parts[part].pairs.siblings(own) + self._first_pair[part]

    def parsing_bytes(self, index: int, label_set: LabelSetName) -> bytes:
        """The file of the image's parsing map."""
        part, own = self._place(index)
        return self.parts[part].pairs.parsing_bytes(own, label_set)

    def check_parsing(self, label_set: LabelSetName) -> None:
        """In every part."""
        for part in self.parts:
            part.pairs.check_parsing(label_set)

    def attributes(self, index: int) -> NDArray[np.int8]:
        """(A,) the image's attributes; all unknown (-1) where its data set annotates none and another one does."""
        part, own = self._place(index)
        if self._unknown_A is not None and not self._annotates[part]:
            return self._unknown_A
        return self.parts[part].pairs.attributes(own)

    @property
    def without_attributes(self) -> tuple[str, ...]:
        """Names of the parts whose data sets annotate none."""
        return tuple(part.name for part, annotates in zip(self.parts, self._annotates, strict=True) if not annotates)

    def _place(self, index: int) -> tuple[int, int]:
        """Part and number in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        part = bisect_right(self._first_pair, index) - 1
        return part, index - self._first_pair[part]


def _starts(sizes: Sequence[int]) -> list[int]:
    return [0, *accumulate(sizes)]


def _first_attributes(pairs: PairSource) -> NDArray[np.int8] | None:
    try:
        return pairs.attributes(0) if len(pairs) else None
    except ValueError:
        return None


def open_training_pairs(data: Data, *, patience_s: float = PATIENCE_S) -> PairSource:
    """The pairs that a run trains on: of its data set, or of all of `data.sources`. ValueError as `open_pairs`."""
    if not data.mixture:
        return open_pairs(data, patience_s=patience_s)
    parts = []
    for source in data.mixture:
        try:
            pairs = open_pairs(data.alone(cast(Benchmark, source.benchmark), source.root), patience_s=patience_s)
        except ValueError as error:
            raise ValueError(f"data.sources, {source.name}: {error}") from error
        if not len(pairs):
            raise ValueError(f"data.sources, {source.name}: no training pair at {shown(source.root)}, expected at least one")
        parts.append(Part(name=source.name, root=source.root, weight=source.weight, pairs=pairs))
    return MixedPairs(parts)


def without_signatures(data: Data) -> Data:
    """The settings with places as a message may show them: without passwords and signatures."""
    places = [text.partition("=") for text in data.roots]
    return replace(data, root=shown(data.root), roots=tuple(f"{name}={shown(root)}" for name, _, root in places))


def first_pairs(source: PairSource) -> tuple[int, ...]:
    """The first pair of each data set that the pairs are of."""
    return source.first_pairs if isinstance(source, MixedPairs) else (0,)


def make_order(source: PairSource, *, seed: int) -> Order:
    """Which pair of `source` stands at which position of training."""
    if not isinstance(source, MixedPairs):
        return PairOrder(len(source), seed=seed)
    shares = [Share(name=part.name, num_pairs=len(part.pairs), weight=part.weight) for part in source.parts]
    return MixtureOrder(shares, seed=seed)


def announce_mixture(source: PairSource, *, attributes: bool) -> None:
    """Say in the log what a mixture is made of; attributes: the method reads them."""
    if not isinstance(source, MixedPairs):
        return
    for line in mixture_in_words(source):
        logger.info("%s", line)
    if attributes and source.without_attributes:
        logger.warning(
            "attributes are unknown for all pairs of %s, which annotates none", " and ".join(source.without_attributes)
        )


def mixture_in_words(source: MixedPairs) -> list[str]:
    """What each part has and gives, and how long an epoch is: a line each."""
    whole = sum(part.weight for part in source.parts)
    lines = []
    for part in source.parts:
        pairs = part.pairs
        passes = len(source) * part.weight / whole / len(pairs)
        lines.append(
            f"source {part.name} at {shown(part.root)}: {len(pairs):,} pairs of {pairs.num_images:,} images,"
            f" {pairs.num_identities:,} identities; {part.weight} of every {whole} training pairs, so an epoch goes through"
            f" it {passes:.2f} times"
        )
    return [*lines, f"an epoch is {len(source):,} pairs, as many as all sources have together"]
