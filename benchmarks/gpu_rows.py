"""The rows that `benchmarks/gpu.py` measures, written as they come: a run that is killed keeps them, and the same command
goes on behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from gpu_table import Row, markdown

from tbps.runs.atomic_file import read_json, write_text

_NAMES = ("method", "part", "of", "who", "precision", "pairs", "compiled")
_SAME = ("device", "torch")
"""Facts in which a run and the one that it goes on with are equal."""


def key(row: Row) -> tuple[str, ...]:
    """What a row is of; rows of one key replace each other."""
    return tuple(str(row.get(name, "")) for name in _NAMES)


class Rows:
    """Rows with the facts about the machine; a Markdown page, and beside it the same as JSON."""

    def __init__(self, out: Path, facts: Mapping[str, Any], *, command: str, beside: Path | None) -> None:
        """ValueError: there are rows of another machine, or those to be compared with cannot be read."""
        self.out, self.facts, self.command = out, dict(facts), command
        self.rows: dict[tuple[str, ...], Row] = {}
        self._lock = Lock()
        self._before = _read(beside)["rows"] if beside else []
        if self.path.exists():
            self._go_on(_read(self.path))

    @property
    def path(self) -> Path:
        """Of the JSON."""
        return self.out.with_suffix(".json")

    def _go_on(self, earlier: Mapping[str, Any]) -> None:
        """Keep what was measured; what failed or was left out is tried again."""
        for name in _SAME:
            found, now = earlier["facts"].get(name), self.facts[name]
            if found != now:
                raise ValueError(
                    f"{self.path} holds rows of {name} {found}, and this is {now}: move it away, or name another by --out"
                )
        self.rows = {key(row): row for row in earlier["rows"] if "error" not in row}

    def finished(self, method: str) -> list[str]:
        """Parts of a method that were measured to their end."""
        return [row["of"] for row in self.rows.values() if row["method"] == method and row["part"] == "time"]

    def known(self, method: str) -> list[tuple[str, ...]]:
        """Keys of a method's rows."""
        return [name for name, row in self.rows.items() if row["method"] == method]

    def value(self, method: str, part: str, name: str) -> Any:
        """A number of one row; None where there is none."""
        found = (row.get(name) for row in self.rows.values() if row["method"] == method and row["part"] == part)
        return next((value for value in found if value is not None), None)

    def add(self, row: Row) -> None:
        """One more, written at once."""
        with self._lock:
            self.rows[key(row)] = row
            self.write()

    def write(self) -> None:
        """Both files."""
        rows = list(self.rows.values())
        write_text(self.path, json.dumps({"facts": self.facts, "rows": rows}, indent=1))
        write_text(self.out, markdown(self.facts, rows, command=self.command, before=self._before))


def _read(path: Path) -> dict[str, Any]:
    advice = "expected the JSON that benchmarks/gpu.py writes; name another file"
    found = read_json(path, advice=advice)
    if not isinstance(found, dict) or not {"facts", "rows"} <= found.keys():
        raise ValueError(f"{path} has no facts and rows; {advice}")
    return found
