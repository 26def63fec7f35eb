"""`rows.json` in a run folder: which rows of which published tables the run is for, and what the paper reports there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tbps.runs.atomic_file import write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """A row that several runs with different seeds share; a run may stand in several tables."""

    table: str
    row: str
    place: int
    """Rows are shown in this order."""
    benchmark: str
    """Whose test split the row's figures are about."""
    published: Mapping[str, float] = field(default_factory=dict)
    """rank_1, rank_5, rank_10, mAP, 0-100; empty where the paper reports none."""


def write_row(run_folder: Path, row: TableRow) -> None:
    """Add a row, or replace that of the same table and row name."""
    others = [known for known in read_rows(run_folder) if (known.table, known.row) != (row.table, row.row)]
    rows = sorted([*others, row], key=lambda known: (known.table, known.place))
    if rows == read_rows(run_folder):
        return
    run_folder.mkdir(parents=True, exist_ok=True)
    write_json(run_folder / "rows.json", [asdict(known) for known in rows])


def read_rows(run_folder: Path) -> list[TableRow]:
    """All rows of a run; none where no sweep has asked for it."""
    file = run_folder / "rows.json"
    if not file.exists():
        return []
    try:
        values: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return [TableRow(**value) for value in values]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); remove it, the same launch.sweep writes it again") from error
