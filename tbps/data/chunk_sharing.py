"""The chunks of a corpus on every machine of a run: what is missing is shared out, and copied to who lacks it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

from tbps.data.chunk_store import ChunkStore
from tbps.text.chunks import Chunker

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Team(Protocol):
    """The processes of a run."""

    @property
    def rank(self) -> int:
        """Which of them this is."""

    @property
    def size(self) -> int:
        """How many they are."""

    def together(self, function: Callable[[], T], *, doing: str) -> list[T]:
        """Call on every process and wait for all; their results by rank. ValueError on all where one cannot."""


def share_chunks(store: ChunkStore, captions: Callable[[], Iterable[str]], chunker: Chunker, team: Team) -> None:
    """Leave every process with all portions in `store`, which may be one folder for all or one on each machine.

    Every process calls this, with the same cleaned `captions`; they are read only where portions are missing everywhere.
    ValueError: a disk does not take them.
    """
    holders = _holders(store, team, doing="looking for attribute chunks")
    if missing := [portion for portion, ranks in enumerate(holders) if not ranks]:
        logger.info(
            "finding attribute chunks (%s): %d of %d portions are missing in %s",
            chunker.name,
            len(missing),
            store.portions,
            store.folder,
        )
        own = missing[team.rank :: team.size]
        team.together(lambda: store.find(own, captions(), chunker), doing="finding attribute chunks")
        holders = _holders(store, team, doing="looking for attribute chunks")
    _copy(store, holders, team)


def _holders(store: ChunkStore, team: Team, *, doing: str) -> list[list[int]]:
    """Per portion, the ranks that have it."""
    held = team.together(store.held, doing=doing)
    return [[rank for rank, portions in enumerate(held) if portion in portions] for portion in range(store.portions)]


def _copy(store: ChunkStore, holders: list[list[int]], team: Team) -> None:
    """In rounds, so that everybody who has something gives something."""
    gifts: list[list[int]] = [[] for _ in range(team.size)]
    for portion, ranks in enumerate(holders):
        if not ranks:
            raise ValueError(
                f"{store.folder} does not keep what is written to it: portion {portion} is gone; look for a cleaner"
            )
        if len(ranks) < team.size:
            gifts[ranks[portion % len(ranks)]].append(portion)
    rounds = max(map(len, gifts))
    if rounds:
        logger.info("copying %d portions of attribute chunks to machines that lack them", sum(map(len, gifts)))
    for number in range(rounds):
        given = gifts[team.rank][number : number + 1]
        received = team.together(partial(_read, store, given), doing="reading attribute chunks for other machines")
        team.together(partial(_keep, store, received), doing="keeping attribute chunks of other machines")


def _read(store: ChunkStore, portions: Sequence[int]) -> dict[int, bytes]:
    return {portion: store.file(portion).read_bytes() for portion in portions}


def _keep(store: ChunkStore, received: Sequence[Mapping[int, bytes]]) -> None:
    for portions in received:
        for portion, content in portions.items():
            if not store.file(portion).exists():
                store.keep(portion, content)
