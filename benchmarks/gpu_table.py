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


_HOW: Mapping[bool | str, str] = {False: "ours", True: "ours, compiled", "graphs": "ours, CUDA graphs"}
HEAD = ("goal (one H100)", "goal", "found", "met")
FORETOLD_WITHIN = 0.1
"""Of the largest memory that was measured."""


def markdown(facts: Mapping[str, Any], rows: Sequence[Row], *, command: str, before: Sequence[Row] = ()) -> str:
    """The whole page; before: rows of another run, whose speeds are compared with these."""
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    parts = ["# Measured on a GPU", "", f"    {command}", "", f"{told}.", ""]
    for title, table in (
        ("Training steps", _speeds(rows, before)),
        ("Work, host syncs and equality with the CPU", _costs(rows)),
        ("Evaluation", _evaluations(rows)),
        ("Waiting for the loader", _loops(rows)),
        ("Compiled blocks", _compilations(rows)),
        ("Goals", goals(rows)),
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


def _speeds(rows: Sequence[Row], before: Sequence[Row]) -> list[str]:
    head = (
        "method",
        "step",
        "precision",
        "pairs",
        "ms",
        "pairs/s",
        "TFLOP/s",
        "MFU",
        "peak GiB",
        "foretold GiB",
        "loader cores",
    )
    ratios = ("to plain", "to eager", *(("to the other run",) if before else ()))
    speeds = _of(rows, "speed")
    lines = []
    for row in speeds:
        plain = _like(speeds, row, who="plain", compiled=False) if row["who"] == "ours" else None
        eager = _like(speeds, row, who="ours", compiled=False) if row["compiled"] else None
        other = _like(_of(before, "speed"), row, who=row["who"], compiled=row["compiled"])
        lines.append(
            (
                row["method"],
                "plain baseline" if row["who"] == "plain" else _HOW[row["compiled"]],
                row["precision"],
                str(row["pairs"]),
                f"{row['step_ms']:.1f}",
                f"{row['pairs_per_s']:.0f}",
                f"{row['tflop_per_s']:.1f}" if row["tflop_per_s"] else "-",
                "-" if row["mfu"] is None else f"{100 * row['mfu']:.1f} %",
                f"{row['peak_mib'] / 1024:.1f}" if row["peak_mib"] else "-",
                _gib(foretold_mib(rows, row)),
                _cores(rows, row),
                _ratio(row, plain),
                _ratio(row, eager),
                *((_ratio(row, other),) if before else ()),
            )
        )
    return _table((*head, *ratios), lines)


def foretold_mib(rows: Sequence[Row], row: Row) -> float | None:
    """Largest memory that was foretold for an eager step of ours; TF32 needs what float32 needs."""
    if row["who"] != "ours" or row["compiled"]:
        return None
    precision = "bf16" if row["precision"] == "bf16" else "fp32"
    wanted = (row["method"], precision, row["pairs"])
    found = (one for one in _of(rows, "foretold") if (one["method"], one["precision"], one["pairs"]) == wanted)
    return next((one["peak_mib"] for one in found), None)


def _gib(mib: float | None) -> str:
    return "-" if mib is None else f"{mib / 1024:.1f}"


def _cores(rows: Sequence[Row], row: Row) -> str:
    """Of the loader, which bring as many pairs as the steps take."""
    rate = next((one["pairs_per_core_s"] for one in _of(rows, "loader") if one["method"] == row["method"]), None)
    return f"{row['pairs_per_s'] / rate:.1f}" if rate and row["who"] == "ours" else "-"


def _like(speeds: Sequence[Row], row: Row, *, who: str, compiled: bool | str) -> Row | None:
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
        syncs = "-" if row["syncs"] is None else str(len(row["syncs"]))
        numbers = (f"{row['gflop_per_pair']:.1f}", f"{row['trained_parameters'] / 1e6:.1f} M", syncs)
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
        (row["method"], row["precision"], str(row["pairs"]), str(row["graphs"]), f"{row['seconds']:.0f}")
        for row in _of(rows, "compiled")
    ]
    return _table(("method", "precision", "pairs", "graphs compiled", "s, its measurement included"), lines)


def _loops(rows: Sequence[Row]) -> list[str]:
    head = ("method", "pairs", "loader workers", "pairs/s", "share of waiting", "pairs/s of a core")
    rates = {one["method"]: f"{one['pairs_per_core_s']:.0f}" for one in _of(rows, "loader")}
    lines = [
        (
            row["method"],
            str(row["pairs"]),
            str(row["workers"]),
            f"{row['pairs_per_s']:.0f}",
            f"{100 * row['wait_share']:.1f} %",
            rates.get(row["method"], "-"),
        )
        for row in _of(rows, "loop")
    ]
    return _table(head, lines)


def goals(rows: Sequence[Row]) -> list[str]:
    """The goals as a table: the figure that was found, and whether the goal is met; `not measured` where there is none."""
    speeds = [row for row in _of(rows, "speed") if row["who"] == "ours"]
    found: list[tuple[str, float, str, float | None]] = []
    for method, what, goal in GOALS:
        rates = [row["pairs_per_s"] for row in speeds if row["method"] == method and row["precision"] == "bf16"]
        found.append((f"{method}, {what}", goal, "at least", max(rates, default=None)))
    for pairs, goal in ((128, 1.15), (8, 2.0)):
        ratios = [
            row["pairs_per_s"] / eager["pairs_per_s"]
            for row in speeds
            if row["compiled"] and row["pairs"] == pairs and row["precision"] == "bf16"
            if (eager := _like(speeds, row, who="ours", compiled=False)) is not None
        ]
        found.append((f"compiled to eager at {pairs} pairs, best method", goal, "at least", max(ratios, default=None)))
    seconds = [row["cuhk_pedes_s"] for row in _of(rows, "evaluation") if row["method"] == "mars"]
    found.append(("mars, CUHK-PEDES test with re-ranking, s", 20, "at most", max(seconds, default=None)))
    shares = [100 * row["wait_share"] for row in _of(rows, "loop")]
    found.append(("share of steps that waits for data, %", 2, "at most", max(shares, default=None)))
    syncs = [float(len(row["syncs"])) for row in _of(rows, "cost") if row["syncs"] is not None]
    found.append(("host syncs of a step, any method", 0, "at most", max(syncs, default=None)))
    errors = [
        100 * abs(foretold / row["peak_mib"] - 1)
        for row in speeds
        if row["peak_mib"] and (foretold := foretold_mib(rows, row)) is not None
    ]
    found.append(("memory foretold, off by at most, %", 100 * FORETOLD_WITHIN, "at most", max(errors, default=None)))
    differences = [max(row["loss"], row["gradient"]) for row in _of(rows, "same") if row["precision"] == "fp32"]
    found.append(("float32 losses and gradients beside the CPU's", 1e-4, "at most", max(differences, default=None)))
    return _table(HEAD, [_goal(*one) for one in found])


def _goal(what: str, goal: float, how: str, value: float | None) -> tuple[str, ...]:
    if value is None:
        return (what, f"{how} {goal:g}", "not measured", "-")
    met = value >= goal if how == "at least" else value <= goal
    return (what, f"{how} {goal:g}", f"{value:.4g}", "met" if met else "not met")


def _failures(rows: Sequence[Row]) -> list[str]:
    known = ("precision", "pairs", "who", "compiled", "of")
    return [
        f"- {row['method']}, {row['part']}"
        + "".join(f", {key} {row[key]}" for key in known if key in row)
        + f": {row['error']}"
        for row in rows
        if "error" in row
    ]
