"""Which pair stands at which position of training: a pure function of (seed, epoch, position).

Training reads one endless stream; position p belongs to epoch p // N, and every epoch holds each of N pairs once. A batch
may begin in one epoch and end in the next, so no pair is dropped. Nothing here knows workers, world size or how the pairs
are stored: folder and shards give the same order.

Of several data sets, each has such a stream of its own, and weights say whose next pair comes (`MixtureOrder`), so a mixture
is a pure function of the position too.

Large data sets are shuffled in two levels, so that storage is read in large pieces: blocks of consecutive pairs are
permuted, and pairs are permuted inside windows of many blocks. A data set of one window is permuted as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK_PAIRS = 4096
"""Consecutive pairs that stay in one window: at 15 KB an image, about 60 MB of storage."""
WINDOW_BLOCKS = 64
"""262,144 pairs a window: a benchmark (at most 68,126 pairs) is permuted as a whole, COCO in three windows, MALS in six."""


def permutation(size: int, *, key: tuple[int | str, ...]) -> NDArray[np.int64]:
    """Shuffle 0..size-1 by the hash of (key, number): the same on every machine and in every release of every library.

    The hash is SplitMix64's mixing function (Steele et al., OOPSLA 2014, Fig. 17) on a counter that starts at a digest.
    """
    digest = hashlib.blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()
    start = np.uint64(int.from_bytes(digest, "little"))
    with np.errstate(over="ignore"):
        z = start + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.argsort(z, kind="stable")


class Order(Protocol):
    """An endless stream of pairs."""

    num_pairs: int
    """Pairs of an epoch."""

    def at(self, position: int) -> tuple[int, int]:
        """(epoch, pair index) at `position` of the stream."""


class PairOrder:
    """The endless stream of (epoch, pair) of one data set."""

    def __init__(
        self,
        num_pairs: int,
        *,
        seed: int,
        name: str = "",
        block_pairs: int = BLOCK_PAIRS,
        window_blocks: int = WINDOW_BLOCKS,
    ) -> None:
        """name: of a source of several, so that two of one size are not shuffled alike."""
        if num_pairs < 1:
            raise ValueError(f"the training split has {num_pairs} pairs, expected at least 1; check data.root")
        self.num_pairs = num_pairs
        self._key: tuple[int | str, ...] = (seed, name) if name else (seed,)
        self.block_pairs = block_pairs
        self.window_blocks = window_blocks
        # A batch touches at most a few windows; an epoch's blocks are few numbers.
        self._window = lru_cache(maxsize=4)(self._make_window)
        self._blocks = lru_cache(maxsize=2)(self._make_blocks)

    def at(self, position: int) -> tuple[int, int]:
        """(epoch, pair index) at `position` of the stream."""
        epoch, place = divmod(position, self.num_pairs)
        _, start_B = self._blocks(epoch)
        slot = int(np.searchsorted(start_B, place, side="right")) - 1
        window = slot // self.window_blocks
        return epoch, int(self._window(epoch, window)[place - start_B[window * self.window_blocks]])

    def _make_blocks(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The epoch's blocks in order, and the place at which each begins (one more entry: the end)."""
        num_blocks = -(-self.num_pairs // self.block_pairs)
        block_B = permutation(num_blocks, key=(*self._key, epoch, "blocks"))
        size_B = np.minimum(self.block_pairs, self.num_pairs - block_B * self.block_pairs)
        return block_B, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(size_B)])

    def _make_window(self, epoch: int, window: int) -> NDArray[np.int64]:
        """The pairs of one window in order. Blocks are sorted first: block order then says only who shares a window."""
        block_B, _ = self._blocks(epoch)
        inside = np.sort(block_B[window * self.window_blocks : (window + 1) * self.window_blocks])
        pairs = np.concatenate(
            [np.arange(b * self.block_pairs, min((b + 1) * self.block_pairs, self.num_pairs)) for b in inside]
        )
        return pairs[permutation(len(pairs), key=(*self._key, epoch, window, "pairs"))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One data set of several."""

    name: str
    num_pairs: int
    weight: int
    """Pairs of it in every window of as many positions as all weights together."""


class MixtureOrder:
    """The endless stream of several data sets: every window holds `weight` pairs of each, in an order drawn for the window.

    A data set's pairs come in the order of its own `PairOrder` and are numbered after those of the data sets before it; the
    epoch of a pair is that of its data set. Example: weights 3 and 1 give windows of 4 positions, 0 to 3, 4 to 7, ...; the
    first data set's pair at its position 3 w + k is the (k + 1)-th of its three in window w.
    """

    def __init__(self, shares: Sequence[Share], *, seed: int) -> None:
        self._seed = seed
        self._shares = tuple(shares)
        self._orders = [PairOrder(share.num_pairs, seed=seed, name=share.name) for share in shares]
        self._first = [0, *accumulate(share.num_pairs for share in shares)]
        self.num_pairs = self._first[-1]
        self.window_pairs = sum(share.weight for share in shares)
        """Positions in which the shares are exact."""
        self._window = lru_cache(maxsize=64)(self._make_window)

    def at(self, position: int) -> tuple[int, int]:
        """(epoch, pair index) at `position` of the stream."""
        window, place = divmod(position, self.window_pairs)
        source, number = self._window(window)[place]
        epoch, pair = self._orders[source].at(window * self._shares[source].weight + number)
        return epoch, self._first[source] + pair

    def _make_window(self, window: int) -> list[tuple[int, int]]:
        """Of each place the source, and how many pairs of it stand before."""
        seats = [source for source, share in enumerate(self._shares) for _ in range(share.weight)]
        before, places = [0] * len(self._shares), []
        for seat in permutation(len(seats), key=(self._seed, window, "sources")).tolist():
            places.append((seats[seat], before[seats[seat]]))
            before[seats[seat]] += 1
        return places


class BatchOrder:
    """Cuts a stream into global batches, and each batch into one contiguous share per rank."""

    def __init__(self, order: Order, *, batch_pairs: int, group_pairs: int) -> None:
        if batch_pairs % group_pairs:
            raise ValueError(f"batch_pairs is {batch_pairs}, expected a multiple of group_pairs ({group_pairs}); change one")
        self.order = order
        self.batch_pairs = batch_pairs
        self.group_pairs = group_pairs

    def indices(self, step: int, *, rank: int = 0, world_size: int = 1) -> list[tuple[int, int]]:
        """(epoch, pair index) of the pairs that `rank` computes in `step`: its contiguous slice of the global batch."""
        share = self.share_pairs(world_size)
        first = step * self.batch_pairs + rank * share
        return [self.order.at(position) for position in range(first, first + share)]

    def epoch(self, step: int) -> float:
        """Epochs of pairs before `step`."""
        return step * self.batch_pairs / self.order.num_pairs

    def share_pairs(self, world_size: int) -> int:
        """Pairs of one rank in a step. ValueError if the groups of a batch cannot be dealt out evenly."""
        num_groups = self.batch_pairs // self.group_pairs
        if num_groups % world_size:
            raise ValueError(
                f"world size {world_size} does not divide the {num_groups} groups of a batch (data.batch_pairs"
                f" {self.batch_pairs} / data.group_pairs {self.group_pairs}); change one of the three"
            )
        return self.batch_pairs // world_size
