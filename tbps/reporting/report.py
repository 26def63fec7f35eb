"""One HTML file about a run: what it is, how training went, what it scores, what it finds.

The file stands alone: pictures are data URIs, charts inline SVG; it runs no script and asks for nothing from anywhere,
which its content policy also tells the browser. It is made from the run folder alone.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tbps.data.remote import shown
from tbps.evaluation.metric_names import METRICS
from tbps.reporting.chart import Chart, make_chart
from tbps.reporting.curves import Curves, read_curves
from tbps.reporting.exhibits import FILE as EXHIBITS
from tbps.reporting.gallery import FOLDER
from tbps.reporting.results import PURPOSES, final_metrics, metric_rows, notes, read_results, rule_in_words
from tbps.reporting.side_by_side import side_by_side
from tbps.runs.atomic_file import write_text
from tbps.runs.run_folder import RunFolder

FILE = "report.html"
GROUP_MEANING = {
    "typical": "average precision nearest to the median",
    "hard": "first right image at rank 2 to 10",
    "failed": "no right image among the first 10",
}


def write_report(run_folder: Path, *, beside: Path | None = None) -> Path:
    """Write `report/report.html` from what the run folder holds; a part that is not there is left out, and said so.

    beside: another run, whose first images for some captions are shown beside this one's.
    Raises ValueError where a folder is no run folder, a file in it is damaged, or the runs have no evaluation in common.
    """
    config = RunFolder(run_folder).read_config()
    curves = read_curves(run_folder / "metrics.jsonl")
    results = read_results(run_folder)
    main = results[0] if results and results[0]["purpose"] in ("final", "validation") else None
    page = _template().render(
        title=f"{config['run']['recipe']} / {config['run']['name']}",
        config=config,
        settings=_settings(config["run"]),
        main=main,
        others=[found for found in results if found is not main],
        metric_names=METRICS,
        metric_rows=metric_rows,
        notes=notes,
        final_metrics=final_metrics,
        rule_in_words=rule_in_words,
        loss_charts=_loss_charts(curves),
        evaluation_charts=_evaluation_charts(curves),
        broken_lines=curves.num_broken_lines,
        galleries=_galleries(run_folder),
        compared=None if beside is None else side_by_side(run_folder, beside),
        group_meaning=GROUP_MEANING,
        exhibits=_exhibits(run_folder),
    )
    file = run_folder / FOLDER / FILE
    file.parent.mkdir(exist_ok=True)
    write_text(file, page)
    return file


@functools.cache
def _template() -> Template:
    """The page, read once a process: it takes a tenth of what a small run takes."""
    environment = Environment(
        loader=PackageLoader("tbps", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _loss_charts(curves: Curves) -> list[Chart]:
    """The sum, each named loss, then everything else that training logs, one chart each: their scales differ."""

    def place(name: str) -> tuple[int, str]:
        return (0 if name == "loss" else 1 if name.startswith("loss/") else 2, name)

    names = sorted((name for name in curves.training if name != "epoch"), key=place)
    return [make_chart(_chart_title(name), {name: curves.training[name]}) for name in names]


def _chart_title(name: str) -> str:
    if name == "loss":
        return "all losses, weighted sum"
    return name.removeprefix("loss/") if name.startswith("loss/") else name


def _evaluation_charts(curves: Curves) -> list[Chart]:
    """Ranking metrics of each split that was evaluated more than once during training."""
    charts = []
    for split, values in curves.evaluation.items():
        shown = {name: values[name] for name in METRICS if len(values.get(name, ())) > 1}
        if shown:
            charts.append(make_chart(split, shown, width=660, height=260))
    return charts


def _galleries(run_folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Name and content of every queries file, those of the final evaluation first."""
    return [(name, _read_json(file)) for name, file in _of_evaluations(run_folder, "queries")]


def _exhibits(run_folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Each exhibit of the final evaluation, or of the first that has one of its title, with the evaluation's name."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, file in _of_evaluations(run_folder, EXHIBITS):
        for exhibit in _read_json(file)["exhibits"]:
            found.setdefault(exhibit["title"], (name, exhibit))
    return list(found.values())


def _of_evaluations(run_folder: Path, kind: str) -> list[tuple[str, Path]]:
    """Files `<kind>-<name of the evaluation>.json` with that name, those of the final evaluation first."""
    found = [(file.stem.removeprefix(f"{kind}-"), file) for file in (run_folder / FOLDER).glob(f"{kind}*.json")]

    def place(item: tuple[str, Path]) -> tuple[int, str]:
        purposes = [number for number, purpose in enumerate(PURPOSES) if item[0].startswith(purpose)]
        return (purposes[0] if purposes else len(PURPOSES), item[0])

    return sorted(found, key=place)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} cannot be read: {error}; remove it or evaluate again") from error


def _settings(run: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The config as sections of (dotted name, value)."""
    sections = []
    general: list[tuple[str, str]] = []
    for name, value in run.items():
        if isinstance(value, Mapping):
            sections.append((name, _flat(value, "")))
        else:
            general.append((name, _value(value)))
    return [("run", general), *sections]


def _flat(values: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", _value(value)))
    return rows


def _value(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return shown(str(value)) if value != "" else "(empty)"
