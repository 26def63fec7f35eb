"""Tables that name the same tensor on two sides, and renaming by them.

A row is our template and the foreign ones whose tensors, joined along dimension 0, are ours (fused projections). In a
template `#` is a number and `*` is `weight` or `bias`; they stand in the same order on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Row = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A foreign tensor is piece `index` of `count` of our tensor `name`."""

    name: str
    index: int = 0
    count: int = 1


class Names:
    """A table, read in both directions. Where several rows fit, the first counts."""

    def __init__(self, table: Sequence[Row]) -> None:
        self._from_ours = [(_pattern(ours), foreign) for ours, foreign in table]
        self._from_foreign = [
            (_pattern(template), ours, index, len(foreign))
            for ours, foreign in table
            for index, template in enumerate(foreign)
        ]

    def foreign(self, name: str) -> tuple[str, ...]:
        """Foreign names of our tensor, in the order in which they are joined; () where the table has none."""
        for pattern, templates in self._from_ours:
            if match := pattern.fullmatch(name):
                return tuple(_fill(template, match) for template in templates)
        return ()

    def ours(self, key: str) -> Piece | None:
        """What a foreign tensor is to us; None where the table does not have it."""
        for pattern, template, index, count in self._from_foreign:
            if match := pattern.fullmatch(key):
                return Piece(name=_fill(template, match), index=index, count=count)
        return None


def rename(state: Mapping[str, Tensor], ours: Callable[[str], Piece | None]) -> tuple[dict[str, Tensor], list[str]]:
    """Foreign tensors under our names, pieces joined; and, sorted, the keys without a place.

    A key has no place if it is unknown, if other pieces of its tensor are missing, or if another key took its place.
    """
    found: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    unplaced: list[str] = []
    for key in state:
        piece = ours(key)
        if piece is None or piece.index in found.get(piece.name, {}):
            unplaced.append(key)
            continue
        found.setdefault(piece.name, {})[piece.index] = key
        counts[piece.name] = piece.count
    tensors: dict[str, Tensor] = {}
    for name, keys in found.items():
        if len(keys) < counts[name]:
            unplaced += keys.values()
        elif len(keys) == 1:
            tensors[name] = state[keys[0]]
        else:
            tensors[name] = torch.cat([state[keys[index]] for index in range(len(keys))])
    return tensors, sorted(unplaced)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\#", r"(\d+)").replace(r"\*", "(weight|bias)"))


def _fill(template: str, match: re.Match[str]) -> str:
    values = iter(match.groups())
    return re.sub(r"[#*]", lambda _: next(values), template)
