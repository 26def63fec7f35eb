"""Annotation files on disk that grow row by row, so that a million rows never lie in memory."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How a file of rows is written: `before`, the rows with `between` between them, `after`."""

    before: str = "[\n"
    between: str = ",\n"
    after: str = "\n]\n"
    encode: Callable[[Mapping[str, Any]], str] = json.dumps
    """The text of a row."""


def csv_form(columns: Sequence[str]) -> Form:
    """Comma-separated cells under the names of the columns."""

    def encode(row: Mapping[str, Any]) -> str:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow([row[name] for name in columns])
        return line.getvalue()

    return Form(before=",".join(columns) + "\n", between="", after="", encode=encode)


class RowFile:
    """A file that grows row by row; it takes its name when it is closed without an error."""

    def __init__(self, path: Path, form: Form = Form()) -> None:
        self._path, self._form = path, form
        self._partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = self._partial.open("w", encoding="utf-8")
        self._file.write(form.before)
        self._between = ""

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        self._file.write(self._between + self._form.encode(row))
        self._between = self._form.between

    def close(self, *, complete: bool) -> None:
        """End the file and give it its name, or remove what there is."""
        if complete:
            self._file.write(self._form.after)
        self._file.close()
        if complete:
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink()
