"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tbps.evaluation.metric_names import METRICS
from tbps.reporting.results import metric_rows, notes


def evaluation_table(results: dict[str, Any]) -> Table:
    """Both directions and chance, and the published figures of the same test split."""
    size = results["size"]
    table = Table(
        title=f"{results['benchmark']} {results['split']}: {size['captions']} captions, {size['images']} images",
        caption="; ".join(notes(results)) or None,
    )
    table.add_column("ranking")
    for name in METRICS:
        table.add_column(name, justify="right")
    for label, metrics in metric_rows(results):
        table.add_row(label, *(f"{metrics[name]:.2f}" for name in METRICS))
    if results["published"]:
        table.add_section()
    for figure in results["published"]:
        numbers = [f"{figure[name]:.2f}" if name in figure else "-" for name in METRICS]
        table.add_row(f"{figure['system']} ({figure['source']})", *numbers)
    return table


def results_table(rows: Sequence[tuple[str, dict[str, Any]]], *, title: str = "") -> Table:
    """One line per evaluation, for example zero-shot, fine-tuned without and with pretraining.

    rows: label and the results of `make_results`. Shows text to image rank_1 and mAP of both rankings, by similarity and
    re-ranked by matching ("-" where that was not done), and what chance gives.
    """
    table = Table(title=title or None)
    table.add_column("rank_1 / mAP")
    for name in ("similarity", "re-ranked", "chance"):
        table.add_column(name, justify="right")
    for label, results in rows:
        direction = results["text_to_image"]
        table.add_row(label, *(_pair(direction[name]) for name in ("coarse", "reranked", "chance")))
    return table


def in_text(table: Table) -> str:
    """As a terminal of 120 columns shows it."""
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip()


def _pair(metrics: dict[str, Any] | None) -> str:
    return "-" if metrics is None else f"{metrics['rank_1']:.2f} / {metrics['mAP']:.2f}"
