"""The measurements of `benchmarks/gpu.py` as Markdown: tables, the goals and whether they were met, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

GOALS: tuple[tuple[str, str, float], ...] = (
    ("clip", "pairs a second", 3200),
    ("irra", "pairs a second", 2500),
    ("mars", "pairs a second", 457),
)
"""On one H100, in bfloat16, at the best batch size."""


def markdown(facts: Mapping[str, Any], rows: Sequence[Row], *, command: str) -> str:
    """The whole page."""
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    parts = ["# Measured on a GPU", "", f"    {command}", "", f"{told}.", ""]
    for title, table in (
        ("Training steps", _speeds(rows)),
        ("Work, host syncs and equality with the CPU", _costs(rows)),
        ("Evaluation", _evaluations(rows)),
        ("Compiled blocks", _compilations(rows)),
        ("Goals", _goals(rows)),
        ("What failed or was left out", _failures(rows)),
    ):
        if table:
            parts += [f"## {title}", "", *table, ""]
    return "\n".join(parts)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    if not lines:
        return []
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]


def _of(rows: Sequence[Row], part: str) -> list[Row]:
    return [row for row in rows if row["part"] == part and "error" not in row]


def _speeds(rows: Sequence[Row]) -> list[str]:
    head = ("method", "step", "precision", "pairs", "ms", "pairs/s", "TFLOP/s", "MFU", "peak GiB", "to plain", "to eager")
    speeds = _of(rows, "speed")
    lines = []
    for row in speeds:
        plain = _like(speeds, row, who="plain", compiled=False) if row["who"] == "ours" else None
        eager = _like(speeds, row, who="ours", compiled=False) if row["compiled"] else None
        lines.append(
            (
                row["method"],
                "plain baseline" if row["who"] == "plain" else "ours, compiled" if row["compiled"] else "ours",
                row["precision"],
                str(row["pairs"]),
                f"{row['step_ms']:.1f}",
                f"{row['pairs_per_s']:.0f}",
                f"{row['tflop_per_s']:.1f}",
                "-" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %",
                f"{row['peak_mib'] / 1024:.1f}" if row["peak_mib"] else "-",
                _ratio(row, plain),
                _ratio(row, eager),
            )
        )
    return _table(head, lines)


def _like(speeds: Sequence[Row], row: Row, *, who: str, compiled: bool) -> Row | None:
    """The same measurement of another step."""
    same = ("method", "precision", "pairs")
    found = [
        other
        for other in speeds
        if other["who"] == who and other["compiled"] == compiled and all(other[key] == row[key] for key in same)
    ]
    return found[0] if found else None


def _ratio(row: Row, other: Row | None) -> str:
    return "" if other is None else f"{row['pairs_per_s'] / other['pairs_per_s']:.2f}x"


def _costs(rows: Sequence[Row]) -> list[str]:
    differs = ("float32: loss, gradient", "bf16: loss, gradient")
    head = ("method", "GFLOP a pair", "trained parameters", "host syncs", "us an operation", *differs)
    lines = []
    for row in _of(rows, "cost"):
        same = {one["precision"]: one for one in _of(rows, "same") if one["method"] == row["method"]}
        differences = [
            f"{same[precision]['loss']:.1e}, {same[precision]['gradient']:.1e}" if precision in same else "-"
            for precision in ("fp32", "bf16")
        ]
        numbers = (f"{row['gflop_per_pair']:.1f}", f"{row['trained_parameters'] / 1e6:.1f} M", str(len(row["syncs"])))
        lines.append((row["method"], *numbers, f"{row['launch_us']:.1f}", *differences))
    return _table(head, lines)


def _evaluations(rows: Sequence[Row]) -> list[str]:
    head = (
        "method",
        "images/s",
        "captions/s",
        "re-ranked pairs/s",
        "images re-ranked",
        "CUHK-PEDES test, s (no files read)",
    )
    lines = [
        (
            row["method"],
            f"{row['images_per_s']:.0f}",
            f"{row['captions_per_s']:.0f}",
            f"{row['pairs_per_s']:.0f}" if row["pairs_per_s"] else "-",
            str(row["rerank_k"]),
            f"{row['cuhk_pedes_s']:.1f}",
        )
        for row in _of(rows, "evaluation")
    ]
    return _table(head, lines)


def _compilations(rows: Sequence[Row]) -> list[str]:
    lines = [
        (row["method"], str(row["pairs"]), str(row["graphs"]), f"{row['seconds']:.0f}") for row in _of(rows, "compiled")
    ]
    return _table(("method", "pairs", "graphs compiled", "s, its measurement included"), lines)


def _goals(rows: Sequence[Row]) -> list[str]:
    lines = []
    for method, what, goal in GOALS:
        found = [row["pairs_per_s"] for row in _of(rows, "speed") if row["method"] == method and row["who"] == "ours"]
        if found:
            lines.append((f"{method}, {what}", f"{goal:.0f}", f"{max(found):.0f}", "yes" if max(found) >= goal else "no"))
    for row in _of(rows, "evaluation"):
        if row["method"] == "mars":
            seconds = row["cuhk_pedes_s"]
            lines.append(("mars, CUHK-PEDES test, s", "20", f"{seconds:.1f}", "yes" if seconds <= 20 else "no"))
    if costs := _of(rows, "cost"):
        syncs = max(len(row["syncs"]) for row in costs)
        lines.append(("host syncs of a step, any method", "0", str(syncs), "no" if syncs else "yes"))
    return _table(("goal (one H100)", "at least, or at most", "found", "met"), lines)


def _failures(rows: Sequence[Row]) -> list[str]:
    known = ("precision", "pairs", "who", "compiled", "of")
    return [
        f"- {row['method']}, {row['part']}"
        + "".join(f", {key} {row[key]}" for key in known if key in row)
        + f": {row['error']}"
        for row in rows
        if "error" in row
    ]
