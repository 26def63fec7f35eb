"""What is searched with: sentences and pictures with weights, and which pictures may be found."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from tbps.search.index import Index


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A sentence, a picture of the index, another picture, or its feature, with its weight."""

    weight: float = 1.0
    """Negative: away from it."""
    sentence: str = ""
    row: int | None = None
    """Of the index."""
    picture: bytes = b""
    """A picture's file."""
    feature: bytes = b""
    """The float16 unit feature of a picture that was embedded before, by the same weights."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or not self.weight:
            raise ValueError(f"the weight of a part of the query is {self.weight}, expected a number other than 0")
        if (bool(self.sentence.strip()), self.row is not None, bool(self.picture), bool(self.feature)).count(True) != 1:
            raise ValueError("a part of the query is empty, expected a sentence or a picture; write what the person wears")


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """The weighted sum of its parts' features, brought to unit length.

    Example: `Query.of("a woman in a red coat", minus=["a hat"])`.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("the query is empty, expected a sentence or a picture")

    @classmethod
    def of(cls, sentence: str, *, plus: tuple[str, ...] = (), minus: tuple[str, ...] = ()) -> Query:
        """Of sentences; each may end in its weight: `a red coat:0.5`."""
        more = [weighed(each) for each in plus] + [weighed(each, sign=-1) for each in minus]
        return cls(parts=(*([weighed(sentence)] if sentence else []), *more))

    @property
    def sentences(self) -> tuple[str, ...]:
        """Those that have a positive weight: what a matcher scores pictures with."""
        return tuple(part.sentence for part in self.parts if part.sentence and part.weight > 0)


def weighed(text: str, *, sign: int = 1) -> Part:
    """A sentence that may end in its weight. Example: "a red coat:0.5" weighs 0.5, "at 10:30 a man" weighs 1."""
    ends = re.fullmatch(r"(.*\S)\s*:\s*([0-9]*\.?[0-9]+)\s*", text, flags=re.DOTALL)
    return Part(sentence=ends[1], weight=sign * float(ends[2])) if ends else Part(sentence=text, weight=float(sign))


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """Which pictures may be found."""

    path: str = ""
    """A pattern as of a shell, of the whole path: `*` is any text, slashes too; empty = all."""
    camera: tuple[str, ...] = ()
    """One of these; empty = all."""
    after_s: int | None = None
    """Taken at this second since 1970 or later."""
    before_s: int | None = None
    """Taken before this second."""

    def allowed(self, index: Index) -> NDArray[np.bool_]:
        """(N,) which rows of the index may be found."""
        allowed_N = index.live_N.copy()
        if self.after_s is not None:
            allowed_N &= index.taken_s_N >= self.after_s
        if self.before_s is not None:
            allowed_N &= index.taken_s_N < self.before_s
        if self.path or self.camera:
            fits = self._path_fits(index)
            allowed_N &= np.fromiter((fits(path) for path in index.paths()), dtype=bool, count=index.num_rows)
        return allowed_N

    def _path_fits(self, index: Index) -> Callable[[bytes], bool]:
        pattern = re.compile(fnmatch.translate(self.path or "*").encode(errors="surrogateescape"))
        cameras = frozenset(self.camera)

        def fits(path: bytes) -> bool:
            return pattern.match(path) is not None and (not cameras or index.camera(path) in cameras)

        return fits


def moment(text: str, *, name: str) -> int:
    """Seconds since 1970 of `2026-11-26` or `2026-11-26 12:00`, in this machine's zone. ValueError names the option."""
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(
            f"{name} is {text!r}, expected a time such as 2026-11-26 or 2026-11-26T12:00; correct it"
        ) from error
