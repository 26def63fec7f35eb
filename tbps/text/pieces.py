"""What a tokeniser makes of one text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """The pieces of one text, without any start or end token."""

    ids: list[int]
    """Ids in the vocabulary."""
    offsets: list[tuple[int, int]]
    """First character and one past the last, of each piece in the text. Two pieces share a character where that was cut
    inside (CLIP cuts bytes)."""
