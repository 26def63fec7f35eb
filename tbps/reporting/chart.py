"""Line charts as geometry: where lines, ticks and labels go, for a template to draw as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tbps.reporting.curves import thin

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46, 14, 10, 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A tick mark: where, in px, and what is written there."""

    place: float
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve."""

    name: str
    points: str
    """`x,y x,y ...` in px, as SVG's polyline takes it."""
    last: str
    """The last value in words."""
    end_x: float
    end_y: float
    single: bool
    """One point only: draw a dot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One chart; `left`, `right`, `top`, `bottom` are the edges of its plane in px."""

    title: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def make_chart(
    title: str, curves: Mapping[str, Sequence[tuple[float, float]]], *, width: int = 320, height: int = 180
) -> Chart:
    """Lay out curves of (step, value) on common axes; each holds at least one finite point."""
    thinned = {name: thin(points) for name, points in curves.items()}
    x_low, x_high = _range([x for points in curves.values() for x, _ in points])
    y_ticks = nice_ticks(*_range([y for points in thinned.values() for _, y in points]), most=4)
    y_low, y_high = y_ticks[0], y_ticks[-1]
    left, right, top, bottom = MARGIN_LEFT, width - MARGIN_RIGHT, MARGIN_TOP, height - MARGIN_BOTTOM

    def to_x(x: float) -> float:
        return round(left + (x - x_low) / (x_high - x_low) * (right - left), 1)

    def to_y(y: float) -> float:
        return round(bottom - (y - y_low) / (y_high - y_low) * (bottom - top), 1)

    lines = tuple(
        Line(
            name=name,
            points=" ".join(f"{to_x(x)},{to_y(y)}" for x, y in points),
            last=short(curves[name][-1][1]),
            end_x=to_x(points[-1][0]),
            end_y=to_y(points[-1][1]),
            single=len(points) == 1,
        )
        for name, points in thinned.items()
    )
    x_ticks = [x for x in nice_ticks(x_low, x_high, most=4) if x_low <= x <= x_high]
    return Chart(
        title=title,
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        lines=lines,
        x_ticks=tuple(Tick(place=to_x(x), label=short(x)) for x in x_ticks),
        y_ticks=tuple(Tick(place=to_y(y), label=short(y)) for y in y_ticks),
    )


def nice_ticks(low: float, high: float, *, most: int) -> list[float]:
    """Round numbers at equal steps that enclose [low, high], about `most` steps. low < high."""
    rough = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def short(value: float) -> str:
    """Four digits at most: 12000 -> 12k, 0.00001 -> 1e-05."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:.4g}k"
    return f"{value:.4g}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value; of equal ones, a little to both sides."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low, high
