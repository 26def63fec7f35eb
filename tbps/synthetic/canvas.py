"""A picture and its label map that are drawn together, in body units.

One unit is the height of the figure; x = 0 is its middle axis and grows to the image's right (to the left when mirrored),
y = 0 is the top of its head and grows downwards, so its soles lie at y = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from tbps.synthetic.colours import RGB

Point = tuple[float, float]
SHADOW = (0, 0, 0)


@dataclass(kw_only=True)
class Canvas:
    """`picture` is `supersampling` times as large as `labels`, so that reducing it later gives smooth edges."""

    picture: Image.Image
    labels: Image.Image
    supersampling: int
    centre_px: float
    """Column of x = 0 in the label map."""
    top_px: float
    """Row of y = 0 in the label map."""
    unit_px: float
    """Height of the figure in the label map."""
    mirrored: bool = False
    labelled: bool = True
    """False draws everything as background of the label map (occluders, other pedestrians)."""
    _paint: ImageDraw.ImageDraw = field(init=False)
    _glaze: ImageDraw.ImageDraw = field(init=False)
    _mark: ImageDraw.ImageDraw = field(init=False)

    def __post_init__(self) -> None:
        self._paint = ImageDraw.Draw(self.picture)
        self._glaze = ImageDraw.Draw(self.picture, "RGBA")
        self._mark = ImageDraw.Draw(self.labels)

    def polygon(self, points: Sequence[Point], rgb: RGB, label: int | None) -> None:
        """A filled polygon; label None leaves the label map as it is."""
        self._paint.polygon(self._scaled(points, self.supersampling), fill=rgb)
        if label is not None:
            self._mark.polygon(self._scaled(points, 1), fill=label if self.labelled else 0)

    def ellipse(self, centre: Point, radius_x: float, radius_y: float, rgb: RGB, label: int | None) -> None:
        """A filled ellipse with axes along x and y."""
        corners = [(centre[0] - radius_x, centre[1] - radius_y), (centre[0] + radius_x, centre[1] + radius_y)]
        self._paint.ellipse(_box(self._scaled(corners, self.supersampling)), fill=rgb)
        if label is not None:
            self._mark.ellipse(_box(self._scaled(corners, 1)), fill=label if self.labelled else 0)

    def limb(self, start: Point, end: Point, radii: tuple[float, float], rgb: RGB, label: int | None) -> None:
        """A tapered stroke with round ends: `radii` at the start and the end."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = max((dx * dx + dy * dy) ** 0.5, 1e-6)
        nx, ny = -dy / length, dx / length
        first, last = radii
        corners = [
            (start[0] + nx * first, start[1] + ny * first),
            (end[0] + nx * last, end[1] + ny * last),
            (end[0] - nx * last, end[1] - ny * last),
            (start[0] - nx * first, start[1] - ny * first),
        ]
        self.polygon(corners, rgb, label)
        self.ellipse(start, first, first, rgb, label)
        self.ellipse(end, last, last, rgb, label)

    def line(self, points: Sequence[Point], width: float, rgb: RGB, label: int | None = None) -> None:
        """A line of `width` body units, never thinner than a pixel of the picture."""
        scaled = self._scaled(points, self.supersampling)
        self._paint.line(scaled, fill=rgb, width=max(1, round(width * self.unit_px * self.supersampling)))
        if label is not None:
            pixels = max(1, round(width * self.unit_px))
            self._mark.line(self._scaled(points, 1), fill=label if self.labelled else 0, width=pixels)

    def shade(self, points: Sequence[Point], strength: float, rgb: RGB = SHADOW) -> None:
        """A translucent polygon over what is there; the label map stays."""
        self._glaze.polygon(self._scaled(points, self.supersampling), fill=(*rgb, round(strength * 255)))

    def shade_ellipse(self, centre: Point, radius_x: float, radius_y: float, strength: float, rgb: RGB = SHADOW) -> None:
        """A translucent ellipse over what is there; the label map stays."""
        corners = [(centre[0] - radius_x, centre[1] - radius_y), (centre[0] + radius_x, centre[1] + radius_y)]
        box = _box(self._scaled(corners, self.supersampling))
        self._glaze.ellipse(box, fill=(*rgb, round(strength * 255)))

    def _scaled(self, points: Sequence[Point], supersampling: int) -> list[Point]:
        x_px = (-self.unit_px if self.mirrored else self.unit_px) * supersampling
        y_px = self.unit_px * supersampling
        left, top = self.centre_px * supersampling, self.top_px * supersampling
        return [(left + x * x_px, top + y * y_px) for x, y in points]


def _box(corners: list[Point]) -> list[float]:
    (x0, y0), (x1, y1) = corners
    return [min(x0, x1), y0, max(x0, x1), y1]
