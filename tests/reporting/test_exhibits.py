"""An exhibit of any method: written with the results, drawn by the report, its text never taken for markup."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from filled_run import HOSTILE, fill_run
from test_report import Page

from tbps.methods.exhibit import Card, Exhibit, Number, Part, Picture, Pictures, Table, Text, Words
from tbps.reporting.exhibits import write_exhibits
from tbps.reporting.report import write_report


def everything(title: str = HOSTILE) -> Exhibit:
    """An exhibit that has every field."""
    picture = Picture(pixels_HWC=np.full((40, 20, 3), 90, np.uint8), described=HOSTILE, title="below")
    return Exhibit(
        title=title,
        explanation=f"how it was made {HOSTILE}",
        parts=(
            Part(
                title=f"heading {HOSTILE}",
                remark="after the heading",
                tables=(
                    Table(
                        columns=("what", "how often", "share"),
                        rows=((Text(text=HOSTILE, remark="seldom"), Number(value=12), Number(value=0.12345, percent=True)),),
                    ),
                    Table(columns=("empty",), rows=()),
                ),
                cards=(
                    Card(
                        title="a caption",
                        cells=(
                            Pictures(title="above", remark="beside", pictures=(picture, picture), height_px=10),
                            Words(title="words", words=((HOSTILE, True), ("plain", False))),
                        ),
                        note="below the cells",
                    ),
                ),
                note="after all",
            ),
        ),
    )


def test_every_field_is_drawn_as_text(tmp_path: Path) -> None:
    fill_run(tmp_path / "run")
    write_exhibits(tmp_path / "run", "zero-shot-rstpreid-test", [everything(), everything(title="Second")])
    page = Page(write_report(tmp_path / "run").read_text(encoding="utf-8"))
    words = page.words()
    for text in (
        f"how it was made {HOSTILE}",
        f"heading {HOSTILE}",
        f"{HOSTILE} seldom 12 12.3 %",
        f"words {HOSTILE} plain",
    ):
        assert words.count(text) == 2, text
    named = ("zero-shot-rstpreid-test", "after the heading", "empty", "a caption", "above", "beside", "below", "Second")
    for text in (*named, "below the cells", "after all"):
        assert text in words, text
    assert "script" not in {tag for tag, _ in page.tags}
    pictures = [attributes for tag, attributes in page.tags if tag == "img" and attributes["alt"] == HOSTILE]
    assert len(pictures) == 4 and all((picture["src"] or "").startswith("data:image/jpeg;base64,") for picture in pictures)


def test_of_several_evaluations_each_exhibit_is_shown_once_from_the_final_one(tmp_path: Path) -> None:
    fill_run(tmp_path / "run")
    for name, titles in (("cross-set-x-test", ("A", "B")), ("final-cuhk-pedes-test", ("A",))):
        write_exhibits(tmp_path / "run", name, [Exhibit(title=title, explanation=f"{title} {name}") for title in titles])
    words = Page(write_report(tmp_path / "run").read_text(encoding="utf-8")).words()
    assert "A final-cuhk-pedes-test" in words and "B cross-set-x-test" in words and "A cross-set-x-test" not in words


def test_nothing_to_show_writes_nothing(tmp_path: Path) -> None:
    assert write_exhibits(tmp_path, "x", []) is None
    assert not list(tmp_path.iterdir())


def test_a_row_without_a_cell_for_each_column_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a row of the table a \| b has 1 cells, expected 2: one for each column"):
        Table(columns=("a", "b"), rows=((Text(text="x"),),))


def test_a_damaged_file_of_exhibits_is_named(tmp_path: Path) -> None:
    fill_run(tmp_path / "run")
    file = write_exhibits(tmp_path / "run", "x", [everything()])
    assert file is not None and json.loads(file.read_text())["of"] == "x"
    file.write_text("{")
    with pytest.raises(ValueError, match=r"exhibits-x\.json cannot be read: .*; remove it or evaluate again"):
        write_report(tmp_path / "run")
