"""What a method shows of itself in the report, as data: text, tables and pictures. Who writes and draws it knows no method.

An exhibit is a chapter of the report; it has parts, and a part has tables and cards. A method makes them in
`exhibits(shown)` from the pairs of an evaluated split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """Text in a table."""

    text: str
    remark: str = ""
    """Said behind it in small letters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """A number in a table."""

    value: float
    percent: bool = False
    """The value is a share of 0 to 1, to be shown in per cent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under a head."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Text | Number, ...], ...]
    """Each with a cell for every column."""

    def __post_init__(self) -> None:
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(
                f"a row of the table {' | '.join(self.columns)} has {wrong[0]} cells, expected {len(self.columns)}: one for"
                " each column"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """One picture."""

    pixels_HWC: NDArray[np.uint8]
    """(height, width, 3) RGB."""
    described: str
    """What is seen on it, for those who cannot see it."""
    title: str = ""
    """Written below it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Pictures side by side."""

    pictures: tuple[Picture, ...]
    title: str = ""
    """Written above them."""
    remark: str = ""
    """Said behind the title in small letters."""
    height_px: int = 192
    """Rows that are kept of each picture, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """A text whose words may be marked."""

    title: str
    """Written above it."""
    words: tuple[tuple[str, bool], ...]
    """Each word, and whether it is marked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What is shown of one thing, for example of one pair: cells side by side."""

    cells: tuple[Pictures | Words, ...]
    title: str = ""
    """Written above the cells, for example the caption."""
    note: str = ""
    """Said below the cells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A section of an exhibit: tables, then cards, then a note."""

    title: str = ""
    """A heading; empty = none."""
    remark: str = ""
    """Said behind the heading in small letters."""
    tables: tuple[Table, ...] = ()
    cards: tuple[Card, ...] = ()
    note: str = ""
    """What a reader must know beside them, or that there are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exhibit:
    """One chapter of the report."""

    title: str
    explanation: str = ""
    """How what follows was made, and how it is to be read."""
    parts: tuple[Part, ...] = ()
