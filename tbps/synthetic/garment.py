"""Tops, dresses and skirts as vertical profiles, and the patterns on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tbps.synthetic.canvas import Canvas, Point
from tbps.synthetic.colours import RGB, mixed


@dataclass(frozen=True, slots=True)
class Profile:
    """A piece of cloth as rows (y, left x, right x) from top to bottom, straight between them."""

    rows: tuple[tuple[float, float, float], ...]

    @property
    def top(self) -> float:
        """The first y."""
        return self.rows[0][0]

    @property
    def bottom(self) -> float:
        """The last y."""
        return self.rows[-1][0]

    def edges(self, y: float) -> tuple[float, float]:
        """Left and right x at height `y`."""
        for (y0, left0, right0), (y1, left1, right1) in zip(self.rows, self.rows[1:]):
            if y <= y1:
                share = (y - y0) / (y1 - y0) if y > y0 else 0.0
                return left0 + (left1 - left0) * share, right0 + (right1 - right0) * share
        return self.rows[-1][1], self.rows[-1][2]

    def part(self, top: float, bottom: float, left: float = 0.0, right: float = 1.0) -> list[Point]:
        """The polygon between two heights and two shares of the width (0 = left edge, 1 = right edge)."""
        heights = [top, *(y for y, _, _ in self.rows if top < y < bottom), bottom]
        return [self.at(y, left) for y in heights] + [self.at(y, right) for y in reversed(heights)]

    def at(self, y: float, share: float) -> Point:
        """The point at height `y` and `share` of the width."""
        left, right = self.edges(y)
        return left + (right - left) * share, y

    def outline(self) -> list[Point]:
        """The whole piece."""
        return self.part(self.top, self.bottom)


def mirrored_rows(rows: Sequence[tuple[float, float]]) -> Profile:
    """A symmetric profile from rows (y, half width)."""
    return Profile(tuple((y, -half, half) for y, half in rows))


def draw_pattern(canvas: Canvas, profile: Profile, kind: str, rgb: RGB, *, from_front: bool, worn_open: bool) -> None:
    """Draw `kind` in `rgb` on `profile`; a logo is on the chest, beside the opening if there is one."""
    if kind == "stripes":
        _stripes(canvas, profile, rgb)
    elif kind == "plaid":
        _plaid(canvas, profile, rgb)
    elif kind == "dots":
        _dots(canvas, profile, rgb)
    elif kind == "two-tone":
        canvas.polygon(profile.part(profile.top + 0.45 * (profile.bottom - profile.top), profile.bottom), rgb, None)
    elif from_front:
        chest, left, right = profile.top + 0.11, *((0.68, 0.97) if worn_open else (0.28, 0.72))
        canvas.polygon(profile.part(chest, chest + 0.075, left, right), rgb, None)
        canvas.polygon(
            profile.part(chest + 0.022, chest + 0.052, left + 0.08, right - 0.08), mixed(rgb, (128, 128, 128), 0.6), None
        )


def _stripes(canvas: Canvas, profile: Profile, rgb: RGB) -> None:
    y = profile.top + 0.035
    while y < profile.bottom - 0.01:
        canvas.polygon(profile.part(y, min(y + 0.024, profile.bottom)), rgb, None)
        y += 0.056


def _plaid(canvas: Canvas, profile: Profile, rgb: RGB) -> None:
    y = profile.top + 0.03
    while y < profile.bottom - 0.01:
        canvas.shade(profile.part(y, min(y + 0.02, profile.bottom)), 0.6, rgb)
        y += 0.062
    for share in (0.08, 0.36, 0.64, 0.9):
        canvas.shade(profile.part(profile.top + 0.01, profile.bottom, share - 0.055, share + 0.055), 0.6, rgb)


def _dots(canvas: Canvas, profile: Profile, rgb: RGB) -> None:
    y, odd = profile.top + 0.04, False
    while y < profile.bottom - 0.015:
        for share in (0.14, 0.38, 0.62, 0.86) if odd else (0.02, 0.26, 0.5, 0.74, 0.98):
            canvas.ellipse(profile.at(y, 0.06 + 0.88 * share), 0.0125, 0.0125, rgb, None)
        y, odd = y + 0.042, not odd


def draw_folds(canvas: Canvas, profile: Profile, random: Random) -> None:
    """Darken one side and a few creases so that the cloth looks round."""
    canvas.shade(profile.part(profile.top + 0.01, profile.bottom, 0.78, 1.0), 0.18)
    canvas.shade(profile.part(profile.top + 0.01, profile.bottom, 0.0, 0.10), 0.10)
    for _ in range(3):
        y, share = random.uniform(profile.top + 0.1, profile.bottom - 0.03), random.uniform(0.1, 0.7)
        tip = profile.at(min(y + random.uniform(-0.03, 0.05), profile.bottom), share + 0.25)
        canvas.shade([profile.at(y, share), tip, profile.at(y + 0.014, share)], 0.16)
