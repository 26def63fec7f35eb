"""From the query string of a request, which is also that of the page's address, to what is searched; and the answer as JSON.

    q=a woman in a red coat   plus=a backpack:0.5   minus=a hat   like=17   up=3   down=8   picture=q83vASNFZ4m...
    path=cam_a/*   camera=cam_a   after=2026-11-01   before=2026-11-26T12:00   top=40   rerank=32

`q`, `plus` and `minus` are sentences that may end in their weight; `like`, `up` and `down` are numbers of pictures;
`picture` is what the server has answered to one that was sent. All of `SEVERAL` may stand several times.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tbps.search.index import Index
from tbps.search.preparing import in_words
from tbps.search.query import Filters, Part, Query, moment, weighed
from tbps.search.searcher import Found, Hit
from tbps.serving.sent_picture import feature_of

ONCE = ("q", "path", "after", "before", "top", "rerank")
SEVERAL = ("plus", "minus", "like", "up", "down", "picture", "camera")
MOST_TOP = 200
MOST_RERANK = 128
MOST_PARTS = 64
"""Of each name."""
MOST_CHARACTERS = 150_000
"""Of all values together: 10,000 words and more."""
UP, DOWN = 0.75, 0.25
"""Weights of Rocchio's formula (see `asked`), as in Salton and Buckley (1990), "Improving retrieval performance by relevance
feedback"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a request wants to know."""

    query: Query
    filters: Filters
    top: int
    rerank: int


def asked(pairs: Sequence[tuple[str, str]], index: Index) -> Asked:
    """Of the names and values of a query string. ValueError says in a sentence what is wrong with them.

    Thumbs move the query by Rocchio's formula: the sum of sentences and pictures, each times its weight, plus UP times the
    mean feature of the pictures with a thumb up, minus DOWN times that of those with a thumb down; then to unit length.
    """
    given = _collected(pairs)
    parts = [weighed(text) for text in given["q"] if text]
    parts += [weighed(text) for text in given["plus"]] + [weighed(text, sign=-1) for text in given["minus"]]
    parts += [Part(row=number(text, name="like")) for text in given["like"]]
    said = index.manifest
    parts += [
        Part(feature=feature_of(text, weights_sha256=said.weights_sha256, width=said.width)) for text in given["picture"]
    ]
    for name, weight in (("up", UP), ("down", -DOWN)):
        rows = list(dict.fromkeys(number(text, name=name) for text in given[name]))
        parts += [Part(row=row, weight=weight / len(rows)) for row in rows]
    after, before = ("".join(given[name]) for name in ("after", "before"))
    return Asked(
        query=Query(parts=tuple(parts)),
        filters=Filters(
            path="".join(given["path"]),
            camera=tuple(given["camera"]),
            after_s=moment(after, name="after") if after else None,
            before_s=moment(before, name="before") if before else None,
        ),
        top=_bounded(given["top"], name="top", default=20, least=1, most=MOST_TOP),
        rerank=_bounded(given["rerank"], name="rerank", default=0, least=0, most=MOST_RERANK),
    )


def _collected(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Values by name."""
    if sum(len(value) for _, value in pairs) > MOST_CHARACTERS:
        raise ValueError(f"the query has more than {MOST_CHARACTERS:,} characters; write a shorter one")
    given: dict[str, list[str]] = {name: [] for name in (*ONCE, *SEVERAL)}
    for name, value in pairs:
        if name not in given:
            raise ValueError(f"{name[:40]!r} is unknown, expected one of {', '.join(given)}; correct the address")
        given[name].append(value)
    for name, values in given.items():
        if len(values) > (1 if name in ONCE else MOST_PARTS):
            most = "once" if name in ONCE else f"at most {MOST_PARTS} times"
            raise ValueError(f"{name} stands {len(values)} times in the query, expected {most}; leave some out")
    return given


def number(text: str, *, name: str) -> int:
    """A picture's number. ValueError: it is none."""
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise ValueError(f"{name} is {text[:40]!r}, expected the number of a picture")
    return int(text)


def _bounded(values: Sequence[str], *, name: str, default: int, least: int, most: int) -> int:
    text = "".join(values)
    found = default if not text else int(text) if re.fullmatch(r"[0-9]{1,12}", text) else -1
    if not least <= found <= most:
        raise ValueError(f"{name} is {text[:40]!r}, expected a number from {least} to {most}")
    return found


def answer(found: Found) -> dict[str, Any]:
    """What a page shows of it: no place on the disk, only paths below the root."""
    return {
        "hits": [_hit(hit) for hit in found.hits],
        "remarks": list(found.remarks),
        "pictures": found.num_allowed,
        "seconds": round(found.seconds, 4),
    }


def _hit(hit: Hit) -> dict[str, Any]:
    picture = hit.picture
    return {
        "id": picture.row,
        "path": picture.name,
        "similarity": round(hit.similarity, 5),
        "score": None if hit.score is None else round(hit.score, 5),
        "taken": in_words(picture.taken_s),
        "camera": picture.camera,
        "width_px": picture.width_px,
        "height_px": picture.height_px,
        "box": picture.box,
    }
