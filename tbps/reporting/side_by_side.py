"""What two runs find for the same captions: the first images of each, from what their evaluations left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps.reporting.gallery import COMPARED, FOLDER
from tbps.runs.run_folder import RunFolder

SHOWN_RANKS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What one run found for one caption."""

    run: str
    """`<recipe>/<name>`."""
    query: Mapping[str, Any]
    """As in the run's file of queries, with the first images alone."""
    pictures: Mapping[str, str]
    """JPEG by image path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """Two runs on one split."""

    evaluation: str
    """Of which the queries are."""
    captions: tuple[tuple[Found, Found], ...]
    """What both found for each caption: the report's run, then the other one."""


def side_by_side(run_folder: Path, other: Path) -> SideBySide:
    """The same captions in both. ValueError: one is no run folder, or they were not evaluated on the same split."""
    names = [_name(folder) for folder in (run_folder, other)]
    ours, theirs = _compared(run_folder), _compared(other)
    for evaluation, mine in ours.items():
        found = theirs.get(evaluation, {})
        if keys := [key for key in mine if key in found]:
            pairs = tuple((_found(names[0], mine[key]), _found(names[1], found[key])) for key in keys)
            return SideBySide(evaluation=evaluation, captions=pairs)
    raise ValueError(
        f"{other}: its evaluations are {', '.join(theirs) or 'none'}, expected one of {run_folder}"
        f" ({', '.join(ours) or 'none'}) with the same captions; evaluate both by tbps evaluate --on the same benchmark"
    )


_Query = tuple[Mapping[str, Any], Mapping[str, str]]


def _compared(run_folder: Path) -> dict[str, dict[str, _Query]]:
    """By evaluation and key, the queries that do not depend on what was found, with the evaluation's pictures."""
    found: dict[str, dict[str, _Query]] = {}
    for file in sorted((run_folder / FOLDER).glob("queries-*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} cannot be read: {error}; remove it or evaluate again") from error
        queries = content.get(COMPARED, [])
        if queries:
            evaluation = file.stem.removeprefix("queries-")
            found[evaluation] = {query["key"]: (query, content["pictures"]) for query in queries}
    return found


def _found(run: str, queried: _Query) -> Found:
    query, pictures = queried
    return Found(run=run, query={**query, "found": query["found"][:SHOWN_RANKS]}, pictures=pictures)


def _name(folder: Path) -> str:
    run = RunFolder(folder).read_config()["run"]
    return f"{run['recipe']}/{run['name']}"
