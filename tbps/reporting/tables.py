"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from tbps.reporting.results import final_metrics, metric_rows

METRICS = ("rank_1", "rank_5", "rank_10", "mAP", "mINP")


def evaluation_table(results: dict[str, Any]) -> Table:
    """Both directions and chance, and the published figures of the same test split."""
    size = results["size"]
    table = Table(
        title=f"{results['benchmark']} {results['split']}: {size['captions']} captions, {size['images']} images",
        caption=_notes(results),
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

    rows: label and the results of `make_results`; shows text to image rank_1 and mAP beside what chance gives.
    """
    table = Table(title=title or None)
    table.add_column("")
    for name in ("rank_1", "chance rank_1", "mAP", "chance mAP"):
        table.add_column(name, justify="right")
    for label, results in rows:
        metrics, chance = final_metrics(results), results["text_to_image"]["chance"]
        numbers = (metrics["rank_1"], chance["rank_1"], metrics["mAP"], chance["mAP"])
        table.add_row(label, *(f"{number:.2f}" for number in numbers))
    return table


def _notes(results: dict[str, Any]) -> str | None:
    """What a reader must know beside the numbers."""
    notes = []
    missing = results["text_to_image"]["coarse"]["num_without_match"]
    if missing:
        notes.append(f"{missing} captions have no image of their identity: {results['queries_without_match']}")
    if results["size"]["cut_captions"]:
        notes.append(f"{results['size']['cut_captions']} captions were cut at the token cap")
    if results["no_published_because"]:
        notes.append(results["no_published_because"])
    return "; ".join(notes) or None
