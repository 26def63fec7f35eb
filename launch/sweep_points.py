"""What a sweep file holds: `POINTS`, made by `grid`, and `TITLE`, the table that they fill.

TITLE = "MARS, Table 4"
POINTS = grid("recipes/mars.py", "cuhk-pedes", seeds=(1, 2), rows={"mae 2": Row("--method.weights.mae 2")})
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launch.planned_run import PlannedRun, plan_run
from tbps.config.run import Run
from tbps.config.serialise import to_json
from tbps.recipe_command import read_variants
from tbps.reporting.published import PUBLISHED_METRICS
from tbps.reporting.table_rows import TableRow

_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class Row:
    """One configuration: what it overrides, as on the command line, and what the paper reports for it."""

    overrides: str = ""
    published: tuple[float | None, ...] = ()
    """rank-1, rank-5, rank-10 and mAP, None for one that the paper does not give; or nothing."""

    def __post_init__(self) -> None:
        if len(self.published) not in (0, len(PUBLISHED_METRICS)):
            raise ValueError(f"published figures are {self.published}, expected {', '.join(PUBLISHED_METRICS)} or none")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One run of a sweep, as asked for."""

    recipe: str
    variant: str
    seed: int
    row: str
    overrides: tuple[str, ...]
    published: Mapping[str, float] = field(default_factory=dict)
    also_on: Mapping[str, str] = field(default_factory=dict)
    """Benchmarks and their folders that the finished run is scored on without training there."""

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int):
            raise ValueError(f"row {self.row!r} has seed {self.seed!r}, expected a whole number")


def grid(
    recipe: str,
    variant: str,
    *,
    seeds: Sequence[int],
    rows: Mapping[str, Row],
    also_on: Mapping[str, str] | None = None,
) -> tuple[Point, ...]:
    """Every row with every seed. With `also_on` the published figures are about its first benchmark."""
    return tuple(
        Point(
            recipe=recipe,
            variant=variant,
            seed=seed,
            row=name,
            overrides=tuple(shlex.split(row.overrides)),
            published={name: value for name, value in zip(PUBLISHED_METRICS, row.published) if value is not None},
            also_on=dict(also_on or {}),
        )
        for name, row in rows.items()
        for seed in seeds
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedPoint:
    """A point whose run is read and named."""

    point: Point
    planned: PlannedRun
    table_row: TableRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A sweep file, read."""

    name: str
    """The file's name."""
    title: str
    points: tuple[PlannedPoint, ...]


def read_sweep(file: str, overrides: Sequence[str] = (), *, accelerate: str = "") -> Sweep:
    """Every point with `overrides` added, as it is trained under the launch settings `accelerate`.

    ValueError, or one sentence and SystemExit for an override, says what is wrong.
    """
    module = _load(Path(file))
    points: Sequence[Point] = tuple(getattr(module, "POINTS", ()))
    if not points or not all(isinstance(point, Point) for point in points):
        raise ValueError(f"{file} has no POINTS; expected a list of launch.sweep_points.Point, such as grid(...) makes")
    title = str(getattr(module, "TITLE", Path(file).stem))
    rows = list(dict.fromkeys(point.row for point in points))
    reader = _Reader(overrides, accelerate)
    planned = tuple(_plan(point, reader, title=title, place=rows.index(point.row)) for point in points)
    _check_distinct(planned)
    return Sweep(name=Path(file).stem, title=title, points=planned)


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"_sweep_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"sweep {str(path)!r} is not there, expected a Python file such as launch/sweeps/mars_table2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Reader:
    """Reads each row and each variant once: the seeds of a row differ in nothing else, and to read words is slow."""

    def __init__(self, overrides: Sequence[str], accelerate: str) -> None:
        self._overrides = tuple(overrides)
        self._accelerate = accelerate
        self._rows: dict[tuple[str, str, tuple[str, ...]], PlannedRun] = {}
        self._variants: dict[tuple[str, str], Run] = {}

    def plan(self, point: Point) -> PlannedRun:
        """The point's run, not yet named."""
        words = (*point.overrides, *self._overrides, "--loop.seed", str(point.seed))
        if any(word.split("=")[0] == "--name" for word in words):
            raise ValueError(f"row {point.row!r} sets --name; a sweep names its runs itself, by what they compute")
        key = (point.recipe, point.variant, point.overrides)
        try:
            if key not in self._rows:
                self._rows[key] = plan_run(point.recipe, point.variant, words, accelerate=self._accelerate)
            run = self._rows[key].run
            return replace(self._rows[key], overrides=words, run=replace(run, loop=replace(run.loop, seed=point.seed)))
        except ValueError as error:
            raise ValueError(f"row {point.row!r}: {error}") from error

    def default(self, point: Point) -> Run:
        """The variant without overrides."""
        key = (point.recipe, point.variant)
        if key not in self._variants:
            self._variants[key] = read_variants(point.recipe)[point.variant]()
        return self._variants[key]


def _plan(point: Point, reader: _Reader, *, title: str, place: int) -> PlannedPoint:
    unnamed = reader.plan(point)
    name = name_of(unnamed.run, reader.default(point), variant=point.variant)
    planned = replace(unnamed, overrides=(*unnamed.overrides, "--name", name), run=replace(unnamed.run, name=name))
    benchmark = next(iter(point.also_on), planned.run.data.benchmark)
    table_row = TableRow(table=title, row=point.row, place=place, benchmark=benchmark, published=point.published)
    return PlannedPoint(point=point, planned=planned, table_row=table_row)


def name_of(run: Run, default: Run, *, variant: str) -> str:
    """Variant, changed settings, seed and a digest of everything that decides the result.

    So a configuration has one run folder however its overrides are spelled, in however many sweeps it stands, and two
    configurations never share one. Where data lie or how much is accumulated does not change the name.
    """
    values, before = (_flat(to_json(one, place=False)) | {"name": ""} for one in (run, default))
    changed = [
        f"{key.rpartition('.')[2]}={value}"
        for key, value in values.items()
        if value != before.get(key) and key != "loop.seed" and re.fullmatch(r"[\w.+-]{1,16}", str(value))
    ]
    text = json.dumps(values, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    words = ",".join([variant, *changed, f"seed={run.loop.seed}"])[:_LONGEST_NAME]
    return f"{words}-{digest}"


def _flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value}
    return flat


def _check_distinct(points: Sequence[PlannedPoint]) -> None:
    seen: dict[Path, Point] = {}
    for one in points:
        other = seen.setdefault(one.planned.folder.path, one.point)
        if other is not one.point:
            raise ValueError(
                f"rows {other.row!r} (seed {other.seed}) and {one.point.row!r} (seed {one.point.seed}) are the same run;"
                " remove one"
            )
