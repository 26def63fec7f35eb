"""A picture and its label maps that are drawn together, in body units.

One unit is the height of the figure; x = 0 is its middle axis and grows to the image's right (to the left when mirrored),
y = 0 is the top of its head and grows downwards, so its soles lie at y = 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from tbps.synthetic.colours import RGB
from tbps.synthetic.parsing import NOTHING, Mark

Point = tuple[float, float]
SHADOW = (0, 0, 0)


@dataclass(kw_only=True)
class Canvas:
    """`picture` is `supersampling` times as large as the maps, so that reducing it later gives smooth edges."""

    picture: Image.Image
    maps: tuple[Image.Image, ...]
    """Label maps, one for each label of a `Mark`."""
    supersampling: int
    centre_px: float
    """Column of x = 0 in the label maps."""
    top_px: float
    """Row of y = 0 in the label maps."""
    unit_px: float
    """Height of the figure in the label maps."""
    mirrored: bool = False
    labelled: bool = True
    """False draws everything as background of the label maps (occluders, other pedestrians)."""
    _paint: ImageDraw.ImageDraw = field(init=False)
    _glaze: ImageDraw.ImageDraw = field(init=False)
    _marks: tuple[ImageDraw.ImageDraw, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._paint = ImageDraw.Draw(self.picture)
        self._glaze = ImageDraw.Draw(self.picture, "RGBA")
        self._marks = tuple(ImageDraw.Draw(map_) for map_ in self.maps)

    def polygon(self, points: Sequence[Point], rgb: RGB, mark: Mark | None) -> None:
        """A filled polygon; mark None leaves the label maps as they are."""
        self._paint.polygon(self._scaled(points, self.supersampling), fill=rgb)
        for draw, label in self._marked(mark):
            draw.polygon(self._scaled(points, 1), fill=label)

    def part(self, points: Sequence[Point], mark: Mark) -> None:
        """A filled polygon of the map of body parts alone."""
        self._marks[-1].polygon(self._scaled(points, 1), fill=mark.pascal if self.labelled else NOTHING.pascal)

    def ellipse(self, centre: Point, radius_x: float, radius_y: float, rgb: RGB, mark: Mark | None) -> None:
        """A filled ellipse with axes along x and y."""
        corners = [(centre[0] - radius_x, centre[1] - radius_y), (centre[0] + radius_x, centre[1] + radius_y)]
        self._paint.ellipse(_box(self._scaled(corners, self.supersampling)), fill=rgb)
        for draw, label in self._marked(mark):
            draw.ellipse(_box(self._scaled(corners, 1)), fill=label)

    def limb(self, start: Point, end: Point, radii: tuple[float, float], rgb: RGB, mark: Mark | None) -> None:
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
        self.polygon(corners, rgb, mark)
        self.ellipse(start, first, first, rgb, mark)
        self.ellipse(end, last, last, rgb, mark)

    def line(self, points: Sequence[Point], width: float, rgb: RGB, mark: Mark | None = None) -> None:
        """A line of `width` body units, never thinner than a pixel of the picture."""
        scaled = self._scaled(points, self.supersampling)
        self._paint.line(scaled, fill=rgb, width=max(1, round(width * self.unit_px * self.supersampling)))
        pixels = max(1, round(width * self.unit_px))
        for draw, label in self._marked(mark):
            draw.line(self._scaled(points, 1), fill=label, width=pixels)

    def shade(self, points: Sequence[Point], strength: float, rgb: RGB = SHADOW) -> None:
        """A translucent polygon over what is there; the label maps stay."""
        self._glaze.polygon(self._scaled(points, self.supersampling), fill=(*rgb, round(strength * 255)))

    def shade_ellipse(self, centre: Point, radius_x: float, radius_y: float, strength: float, rgb: RGB = SHADOW) -> None:
        """A translucent ellipse over what is there; the label maps stay."""
        corners = [(centre[0] - radius_x, centre[1] - radius_y), (centre[0] + radius_x, centre[1] + radius_y)]
        box = _box(self._scaled(corners, self.supersampling))
        self._glaze.ellipse(box, fill=(*rgb, round(strength * 255)))

    def _marked(self, mark: Mark | None) -> Iterable[tuple[ImageDraw.ImageDraw, int]]:
        """Each map and the label that is drawn there."""
        return () if mark is None else zip(self._marks, mark if self.labelled else NOTHING, strict=True)

    def _scaled(self, points: Sequence[Point], supersampling: int) -> list[Point]:
        x_px = (-self.unit_px if self.mirrored else self.unit_px) * supersampling
        y_px = self.unit_px * supersampling
        left, top = self.centre_px * supersampling, self.top_px * supersampling
        return [(left + x * x_px, top + y * y_px) for x, y in points]


def _box(corners: list[Point]) -> list[float]:
    (x0, y0), (x1, y1) = corners
    return [min(x0, x1), y0, max(x0, x1), y1]
