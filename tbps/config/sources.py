"""Several data sets in one run: what `data.sources` and `data.roots` say, read and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

MOST_WEIGHT = 1000
_FORM = re.compile(r"(?:(?P<name>[\w.-]+)=)?(?P<benchmark>[\w-]+):(?P<weight>\d{1,9})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One of the data sets that training pairs are taken from."""

    name: str
    """What the keys of its pairs begin with, and how `data.roots` and the log call it."""
    benchmark: str
    """Its format."""
    weight: int
    """Of so many pairs as all weights together, how many are of it."""
    root: str
    """Folder or shards."""


def read_sources(
    texts: Sequence[str], roots: Sequence[str], *, benchmark: str, root: str, benchmarks: Collection[str]
) -> tuple[Source, ...]:
    """The data sets of a run, with weights without a common factor; none where `texts` names none.

    texts: `[NAME=]BENCHMARK:WEIGHT`. benchmark, root: those of the run, which validation reads; the first source of that
    benchmark lies there. roots: `NAME=ROOT` of every other. ValueError: what is wrong, in one sentence.
    """
    named = [_read(text, benchmarks) for text in texts]
    names = [name for name, _, _ in named]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise ValueError(
            f"data.sources names {twice[0]} twice, expected names that differ; give one of its own: other={texts[-1]}"
        )
    if len(names) == 1:
        raise ValueError(
            f"data.sources names {names[0]} alone, expected two data sets or more; one is data.benchmark and data.root"
        )
    if named and benchmark not in [kind for _, kind, _ in named]:
        raise ValueError(
            f"data.benchmark is {benchmark}, which validation reads, and data.sources are {' '.join(texts)}, expected it"
            " among them; change one of them"
        )
    main = next((name for name, kind, _ in named if kind == benchmark), "")
    root_of = {main: root, **_read_roots(roots, [name for name in names if name != main])}
    if without := [name for name in names if name not in root_of]:
        raise ValueError(f"data.roots has no root of {without[0]}, expected {without[0]}=ROOT; add it")
    factor = math.gcd(*(weight for _, _, weight in named))
    return tuple(
        Source(name=name, benchmark=kind, weight=weight // factor, root=root_of[name]) for name, kind, weight in named
    )


def _read(text: str, benchmarks: Collection[str]) -> tuple[str, str, int]:
    """Name, benchmark and weight."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(
            f"data.sources holds {text!r}, expected BENCHMARK:WEIGHT such as mals:3, or NAME=BENCHMARK:WEIGHT, each a word"
            " of its own"
        )
    benchmark, weight = found["benchmark"], int(found["weight"])
    if benchmark not in benchmarks:
        raise ValueError(f"data.sources holds {text!r}, expected one of {', '.join(benchmarks)} before the colon")
    if not 1 <= weight <= MOST_WEIGHT:
        raise ValueError(f"data.sources holds {text!r}, expected a weight of 1 to {MOST_WEIGHT} after the colon")
    return found["name"] or benchmark, benchmark, weight


def _read_roots(roots: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    root_of: dict[str, str] = {}
    for text in roots:
        name, _, root = text.partition("=")
        if name not in names or not root:
            raise ValueError(
                f"data.roots holds {text!r}, expected NAME=ROOT of a source that does not lie at data.root"
                f" ({', '.join(names) or 'there is none'}); correct it, or leave it out"
            )
        if name in root_of:
            raise ValueError(f"data.roots names {name} twice, expected it once; leave one out")
        root_of[name] = root
    return root_of
