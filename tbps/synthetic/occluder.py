"""Things between the camera and the person: a pole, a bush, a car's edge."""

from __future__ import annotations

from random import Random

from tbps.synthetic.canvas import Canvas
from tbps.synthetic.colours import scaled, to_rgb
from tbps.synthetic.parsing import NOTHING

OCCLUDERS = ("pole", "bush", "car", "pedestrian")
HIDES_FEET = ("bush", "car")


def draw_occluder(canvas: Canvas, kind: str, random: Random) -> None:
    """Draw `kind` over everything; it is background of the label maps. A pedestrian is drawn by `rendering`."""
    if kind == "pole":
        _pole(canvas, random)
    elif kind == "bush":
        _bush(canvas, random)
    elif kind == "car":
        _car(canvas, random)


def _pole(canvas: Canvas, random: Random) -> None:
    x, half = random.choice((-1, 1)) * random.uniform(0.05, 0.14), random.uniform(0.012, 0.024)
    grey = random.randint(50, 160)
    canvas.polygon([(x - half, -0.5), (x + half, -0.5), (x + half, 1.5), (x - half, 1.5)], (grey, grey, grey + 8), NOTHING)
    canvas.shade([(x + half * 0.3, -0.5), (x + half, -0.5), (x + half, 1.5), (x + half * 0.3, 1.5)], 0.35)


def _bush(canvas: Canvas, random: Random) -> None:
    for _ in range(16):
        leaf = to_rgb(random.uniform(0.26, 0.38), random.uniform(0.4, 0.7), random.uniform(0.2, 0.45))
        centre = (random.uniform(-0.25, 0.25), random.uniform(0.9, 1.08))
        canvas.ellipse(centre, random.uniform(0.03, 0.07), random.uniform(0.03, 0.06), leaf, NOTHING)


def _car(canvas: Canvas, random: Random) -> None:
    rgb = to_rgb(random.random(), random.uniform(0.1, 0.8), random.uniform(0.3, 0.9))
    sign, edge, top = random.choice((-1, 1)), random.uniform(-0.06, 0.08), random.uniform(0.76, 0.86)
    hood = [
        (sign * edge, top + 0.06),
        (sign * (edge + 0.05), top),
        (sign * 0.7, top - 0.02),
        (sign * 0.7, 1.3),
        (sign * edge, 1.3),
    ]
    canvas.polygon(hood, rgb, NOTHING)
    canvas.polygon(
        [(sign * edge, 0.93), (sign * 0.7, 0.93), (sign * 0.7, 0.96), (sign * edge, 0.96)], scaled(rgb, 0.6), NOTHING
    )
    canvas.ellipse((sign * (edge + 0.05), 0.89), 0.03, 0.018, (240, 235, 200), NOTHING)
