"""A summary of runs as text: for a terminal, Markdown, CSV and HTML, with the same columns."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tbps.evaluation.metrics import METRICS
from tbps.reporting.published import PUBLISHED_METRICS
from tbps.reporting.summary import Line

_LEGEND = "rank_k, mAP, mINP: mean +- sample standard deviation over seeds; published: rank_1 / mAP on the same test split"
_COLUMNS = ("run", "test split", "seeds", *METRICS, "ranking", "published", "source")
_MASKED = "masked words, %"
"""A column of its own where a method logs it."""


def _columns(lines: Sequence[Line]) -> tuple[str, ...]:
    return (*_COLUMNS, *((_MASKED,) if any(line.masked_ratio for line in lines) else ()))


def _cells(line: Line, columns: Sequence[str]) -> list[str]:
    published = f"{line.published['rank_1']:.2f} / {line.published['mAP']:.2f}" if line.published else "-"
    metrics = [str(line.metrics.get(name, "-")) for name in METRICS]
    masked = [str(line.masked_ratio or "-")] if _MASKED in columns else []
    return [
        line.label,
        line.benchmark,
        str(len(line.seeds)),
        *metrics,
        line.problem or line.rule,
        published,
        line.published_by or "-",
        *masked,
    ]


def _by_table(lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    return [(table, list(part)) for table, part in groupby(lines, key=lambda line: line.table)]


def as_table(lines: Sequence[Line]) -> str:
    """For a terminal."""
    console = Console(width=200)
    with console.capture() as captured:
        for title, part in _by_table(lines):
            table = Table(title=Text(title))
            for name in _columns(part):
                right = name in (*METRICS, "seeds", "published", _MASKED)
                table.add_column(name, justify="right" if right else "left")
            for line in part:
                table.add_row(*map(Text, _cells(line, _columns(part))))
            console.print(table)
    return captured.get() + _LEGEND + "\n"


def as_markdown(lines: Sequence[Line]) -> str:
    """Tables under headings."""
    text = []
    for title, part in _by_table(lines):
        columns = _columns(part)
        text += [f"## {_one_line(title)}", "", _markdown_row(columns), _markdown_row(["---"] * len(columns))]
        text += [*(_markdown_row(_cells(line, columns)) for line in part), ""]
    return "\n".join([*text, _LEGEND, ""])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"


def _one_line(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False)


def as_csv(lines: Sequence[Line]) -> str:
    """Every number in a column of its own; empty where there is none."""
    stream = io.StringIO()
    spreads = [f"{name}_{part}" for name in METRICS for part in ("mean", "std")]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [
            "table",
            "run",
            "test_split",
            "ranking",
            "seeds",
            *spreads,
            *(f"published_{name}" for name in PUBLISHED_METRICS),
            "source",
            "masked_words_percent",
            "problem",
        ]
    )
    for line in lines:
        numbers: list[object] = []
        for name in METRICS:
            value = line.metrics.get(name)
            numbers += [f"{value.mean:.4f}" if value else "", f"{value.std:.4f}" if value and value.std is not None else ""]
        seeds = " ".join(map(str, line.seeds))
        figures = [line.published.get(name, "") for name in PUBLISHED_METRICS]
        masked = "" if line.masked_ratio is None else f"{line.masked_ratio.mean:.2f}"
        writer.writerow(
            [
                line.table,
                line.label,
                line.benchmark,
                line.rule,
                seeds,
                *numbers,
                *figures,
                line.published_by,
                masked,
                line.problem,
            ]
        )
    return stream.getvalue()


def as_html(lines: Sequence[Line]) -> str:
    """A page without scripts or other files."""
    body = []
    for title, part in _by_table(lines):
        head = "".join(f"<th>{html.escape(name)}</th>" for name in _columns(part))
        rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(line, _columns(part))) for line in part]
        body.append(f"<h2>{html.escape(title)}</h2>\n<table><tr>{head}</tr>")
        body += [*(f"<tr>{row}</tr>" for row in rows), "</table>"]
    style = "body{font-family:sans-serif}table{border-collapse:collapse}th,td{border:1px solid #999;padding:.3em .6em}"
    head = f'<meta charset="utf-8"><title>Results</title><style>{style}</style>'
    content = "\n".join(body)
    return f"<!doctype html>\n<html><head>{head}</head><body>\n{content}\n<p>{html.escape(_LEGEND)}</p></body></html>\n"


FORMATS: Mapping[str, Callable[[Sequence[Line]], str]] = {
    "table": as_table,
    "markdown": as_markdown,
    "csv": as_csv,
    "html": as_html,
}
"""By the words of the command line."""
