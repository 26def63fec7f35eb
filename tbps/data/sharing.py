"""What must not be shared: a person or a picture in two splits, a picture of two persons, a picture under two names."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tbps.data.finding import Finding


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a picture stands."""

    split: str
    identity: int
    """Counted anew in each split."""
    name: str
    """Its path as annotated."""


class SharedPictures:
    """Collects pictures by what makes two of them the same.

    A picture shared with the test split is fatal (test leaks into what is trained, or chosen by), and so is one of two
    persons.
    """

    def __init__(self, what: str, *, same_path: bool, persons: bool, tolerated: bool = False) -> None:
        """`what` names the pictures in findings.

        `same_path`: a path annotated again is told too, not only another path to the same picture. `persons`: identities
        are persons, so a picture has one. `tolerated`: nothing is fatal, since the published files themselves are so, and
        with them all results on them.
        """
        self._what = what
        self._same_path = same_path
        self._persons = persons
        self._tolerated = tolerated
        self._first: dict[Hashable, Place] = {}
        self._shared: dict[tuple[str, bool], list[str]] = {}

    def add(self, key: Hashable, place: Place) -> bool:
        """Take in one picture; splits come one after the other. Whether it is the first of its key."""
        first = self._first.setdefault(key, place)
        if first is place:
            return True
        if first.name == place.name and not self._same_path:
            return False
        if first.split != place.split:
            kind, fatal = f"in {place.split} and in {first.split}", "test" in (first.split, place.split)
        elif first.identity != place.identity and self._persons:
            kind, fatal = "of two identities", True
        else:
            kind, fatal = "under two names", False
        name = place.name if place.name == first.name else f"{place.name} (as {first.name})"
        self._shared.setdefault((kind, fatal and not self._tolerated), []).append(name)
        return False

    def findings(self) -> Iterator[Finding]:
        """What was met twice."""
        for (kind, fatal), names in self._shared.items():
            yield Finding(what=f"{self._what} {kind}", names=tuple(names), fatal=fatal)


def shared_identities(ids: Mapping[str, Iterable[str]]) -> Iterator[Finding]:
    """Persons who are in two splits; `ids` holds those of each split. Sharing with test is fatal."""
    before: dict[str, str] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for split, members in ids.items():
        for identity in members:
            if (first := before.setdefault(identity, split)) != split:
                shared.setdefault((split, first), []).append(identity)
    for pair, names in shared.items():
        yield Finding(what="identities in {} and in {}".format(*pair), names=tuple(names), fatal="test" in pair)
