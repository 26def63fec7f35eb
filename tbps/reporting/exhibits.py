"""What a method shows of itself, written beside the results as JSON, which a later report draws."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tbps.methods.exhibit import Card, Exhibit, Number, Part, Pictures, Table, Text, Words
from tbps.reporting.thumbnail import thumbnail
from tbps.runs.atomic_file import write_json

FILE = "exhibits"
"""Of the file, before the name of the evaluation that it belongs to."""


def write_exhibits(run_folder: Path, name: str, exhibits: list[Exhibit]) -> Path | None:
    """Write `report/exhibits-<name>.json`, pictures as JPEG in it: the report then needs neither method nor data set.

    name: the stem of the results file that they belong to. Nothing is written where there is nothing to show.
    """
    if not exhibits:
        return None
    file = run_folder / "report" / f"{FILE}-{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"of": name, "exhibits": [_exhibit(exhibit) for exhibit in exhibits]})
    return file


def _exhibit(exhibit: Exhibit) -> dict[str, Any]:
    return {"title": exhibit.title, "explanation": exhibit.explanation, "parts": [_part(part) for part in exhibit.parts]}


def _part(part: Part) -> dict[str, Any]:
    return {
        "title": part.title,
        "remark": part.remark,
        "tables": [_table(table) for table in part.tables],
        "cards": [_card(card) for card in part.cards],
        "note": part.note,
    }


def _table(table: Table) -> dict[str, Any]:
    return {"columns": table.columns, "rows": [[_entry(entry) for entry in row] for row in table.rows]}


def _entry(entry: Text | Number) -> dict[str, Any]:
    return {"kind": "text" if isinstance(entry, Text) else "number", **asdict(entry)}


def _card(card: Card) -> dict[str, Any]:
    return {"title": card.title, "cells": [_cell(cell) for cell in card.cells], "note": card.note}


def _cell(cell: Pictures | Words) -> dict[str, Any]:
    if isinstance(cell, Words):
        return {"kind": "words", **asdict(cell)}
    pictures = [
        {
            "jpeg": thumbnail(picture.pixels_HWC, height_px=cell.height_px),
            "described": picture.described,
            "title": picture.title,
        }
        for picture in cell.pictures
    ]
    return {"kind": "pictures", "title": cell.title, "remark": cell.remark, "pictures": pictures}
