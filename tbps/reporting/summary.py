"""Results of many runs as a table: runs that differ in nothing but the seed are one line, mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tbps.config.run import Run
from tbps.evaluation.metric_names import METRICS
from tbps.reporting.published import PUBLISHED_METRICS
from tbps.reporting.results import PURPOSES, final_metrics, read_file, result_files, rule_in_words
from tbps.reporting.table_rows import TableRow, read_rows
from tbps.runs.config_hash import config_hash
from tbps.runs.metrics_log import late_mean
from tbps.runs.run_folder import RunFolder

OTHER_RUNS = "runs"
"""Heading of runs that no sweep has asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Values of one metric over seeds."""

    mean: float
    std: float | None
    """Of the sample (n - 1); None for one seed."""

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} +- {self.std:.2f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One configuration on one test split."""

    table: str
    label: str
    benchmark: str
    """With the split where that is not test, and the benchmark it was trained on where that is another."""
    rule: str
    """How the ranking was made."""
    seeds: tuple[int, ...]
    metrics: Mapping[str, Spread]
    """By METRICS; empty where there is a problem."""
    published: Mapping[str, float]
    """Of PUBLISHED_METRICS; empty where nothing is, or where it is about another test split than the one scored here."""
    published_by: str
    numbers: Mapping[str, Spread] = field(default_factory=dict)
    """By the heading of its column, what the method's config wants shown of its log (`TABLE_NUMBERS`)."""
    problem: str = ""
    """Why a run, or a file of it, is not read; it then has a line of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scored:
    run: Run
    results: Mapping[str, Any]
    rows: tuple[TableRow, ...]
    metrics_log: Path


def read_summary(runs: Path) -> list[Line]:
    """All scored runs `<runs>/<recipe>/<name>`, tables first, what cannot be read last. ValueError where there is none."""
    folders = sorted(file.parent for file in runs.glob("*/*/config.json"))
    found: list[_Scored] = []
    problems: list[Line] = []
    for folder in folders:
        scored, sentences = _read_folder(folder)
        found += scored
        problems += [_problem(folder, sentence) for sentence in sentences]
    if not found and not problems:
        raise ValueError(f"{runs} holds {len(folders)} runs and no results; give the folder of <recipe>/<name>/results")
    groups: dict[tuple[Any, ...], list[_Scored]] = {}
    for one in found:
        groups.setdefault(_what_is_equal(one), []).append(one)
    lines = [(place, line) for group in groups.values() for place, line in _lines(_newest_of_each_seed(group))]
    lines = sorted(lines, key=lambda item: (item[1].table == OTHER_RUNS, item[1].table, item[0]))
    return [*(line for _, line in lines), *problems]


def _read_folder(folder: Path) -> tuple[list[_Scored], list[str]]:
    """What of a run is to be shown, and a sentence for each of its files that cannot be read."""
    opened, problems = RunFolder(folder), []
    try:
        run = opened.read_run()
    except ValueError as error:
        return [], [str(error)]
    rows: list[TableRow] = []
    try:
        rows = read_rows(folder)
    except ValueError as error:
        problems.append(str(error))
    found = []
    for file in result_files(folder):
        try:
            results = read_file(file)
        except ValueError as error:
            problems.append(str(error))
            continue
        if results["purpose"] not in ("validation", "trial"):
            found.append(_Scored(run=run, results=results, rows=tuple(rows), metrics_log=opened.metrics))
    return sorted(found, key=lambda one: PURPOSES.index(one.results["purpose"])), problems


def _problem(folder: Path, sentence: str) -> Line:
    return Line(
        table=OTHER_RUNS,
        label=f"{folder.parent.name}/{folder.name}",
        benchmark="-",
        rule="-",
        seeds=(),
        metrics={},
        published={},
        published_by="",
        problem=sentence,
    )


def _what_is_equal(one: _Scored) -> tuple[Any, ...]:
    """Everything that decides the numbers, but for the seed and the name."""
    seedless = replace(one.run, name="any", loop=replace(one.run.loop, seed=0))
    results = one.results
    what = (results["purpose"], results["benchmark"], results["split"], *results["size"].values())
    return (config_hash(seedless), *what, rule_in_words(final_metrics(dict(results))))


def _newest_of_each_seed(group: Sequence[_Scored]) -> list[_Scored]:
    """The same run twice says nothing about the spread over seeds; rows are those of all."""
    rows = tuple(row for one in group for row in one.rows)
    by_date = sorted(group, key=lambda one: str(one.results["date"]))
    newest = {one.run.loop.seed: replace(one, rows=rows) for one in by_date}
    return [newest[seed] for seed in sorted(newest)]


def _lines(group: Sequence[_Scored]) -> list[tuple[int, Line]]:
    """One for each table that the group stands in, with its place there."""
    results = group[0].results
    rows = {row.table: row for one in group for row in one.rows if row.benchmark == results["benchmark"]}
    common = _common(group)
    if not rows:
        first = group[0].run
        label = f"{first.recipe}/{first.name}" + (f" and {len(group) - 1} more" if len(group) > 1 else "")
        figures = {figure["system"].lower(): figure for figure in results["published"]}
        # A recipe is named after its system; scored on a benchmark it was not trained on, it is not what the paper reports.
        alone = results["purpose"] == "final" and not first.data.sources
        figure = figures.get(first.recipe, {}) if alone else {}
        published = {name: float(figure[name]) for name in PUBLISHED_METRICS if name in figure}
        own = Line(table=OTHER_RUNS, label=label, published=published, published_by=figure.get("source", ""), **common)
        return [(0, own)]
    comparable = not results["no_published_because"]
    return [
        (
            row.place,
            Line(
                table=row.table,
                label=row.row,
                published=row.published if comparable else {},
                published_by=row.table if comparable and row.published else "",
                **common,
            ),
        )
        for row in rows.values()
    ]


def _common(group: Sequence[_Scored]) -> dict[str, Any]:
    results = group[0].results
    data = group[0].run.data
    trained_on = " + ".join(data.sources) or data.benchmark
    where = results["benchmark"] if trained_on == results["benchmark"] else f"{trained_on} to {results['benchmark']}"
    each = [final_metrics(dict(one.results)) for one in group]
    return {
        "benchmark": where if results["split"] == "test" else f"{where} {results['split']}",
        "rule": rule_in_words(each[0]),
        "seeds": tuple(one.run.loop.seed for one in group),
        "numbers": _numbers(group),
        "metrics": {name: spread([float(metrics[name]) for metrics in each]) for name in METRICS},
    }


def _numbers(group: Sequence[_Scored]) -> dict[str, Spread]:
    """Those that at least one run of the group has logged."""
    numbers = {}
    for number in group[0].run.method.TABLE_NUMBERS:
        found = [late_mean(one.metrics_log, number.name) for one in group]
        if values := [number.factor * value for value in found if value is not None]:
            numbers[number.heading] = spread(values)
    return numbers


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    return Spread(mean=statistics.fmean(values), std=statistics.stdev(values) if len(values) > 1 else None)
