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

from tbps.evaluation.metric_names import METRICS
from tbps.reporting.published import PUBLISHED_METRICS
from tbps.reporting.summary import Line

_LEGEND = "rank_k, mAP, mINP: mean +- sample standard deviation over seeds; published: rank_1 / mAP on the same test split"
_COLUMNS = ("run", "test split", "seeds", *METRICS, "ranking", "published", "source")


def _headings(lines: Sequence[Line]) -> tuple[str, ...]:
    """Of the numbers that some method wants shown of its log."""
    return tuple(dict.fromkeys(heading for line in lines for heading in line.numbers))


def _cells(line: Line, headings: Sequence[str]) -> list[str]:
    published = f"{line.published['rank_1']:.2f} / {line.published['mAP']:.2f}" if line.published else "-"
    metrics = [str(line.metrics.get(name, "-")) for name in METRICS]
    return [
        line.label,
        line.benchmark,
        str(len(line.seeds)),
        *metrics,
        line.problem or line.rule,
        published,
        line.published_by or "-",
        *(str(line.numbers.get(heading, "-")) for heading in headings),
    ]


def _by_table(lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    return [(table, list(part)) for table, part in groupby(lines, key=lambda line: line.table)]


def as_table(lines: Sequence[Line]) -> str:
    """For a terminal."""
    console = Console(width=200)
    with console.capture() as captured:
        for title, part in _by_table(lines):
            table = Table(title=Text(title))
            headings = _headings(part)
            for name in (*_COLUMNS, *headings):
                right = name in (*METRICS, "seeds", "published", *headings)
                table.add_column(name, justify="right" if right else "left")
            for line in part:
                table.add_row(*map(Text, _cells(line, headings)))
            console.print(table)
    return captured.get() + _LEGEND + "\n"


def as_markdown(lines: Sequence[Line]) -> str:
    """Tables under headings."""
    text = []
    for title, part in _by_table(lines):
        headings = _headings(part)
        columns = (*_COLUMNS, *headings)
        text += [f"## {_one_line(title)}", "", _markdown_row(columns), _markdown_row(["---"] * len(columns))]
        text += [*(_markdown_row(_cells(line, headings)) for line in part), ""]
    return "\n".join([*text, _LEGEND, ""])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"


def _one_line(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False)


def as_csv(lines: Sequence[Line]) -> str:
    """Every number in a column of its own; empty where there is none."""
    stream, headings = io.StringIO(), _headings(lines)
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
            *headings,
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
        logged = [f"{line.numbers[heading].mean:.4f}" if heading in line.numbers else "" for heading in headings]
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
                *logged,
                line.problem,
            ]
        )
    return stream.getvalue()


def as_html(lines: Sequence[Line]) -> str:
    """A page without scripts or other files."""
    body = []
    for title, part in _by_table(lines):
        headings = _headings(part)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in (*_COLUMNS, *headings))
        rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(line, headings)) for line in part]
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
