"""Backgrounds: street, wall, grass and corridor, drawn small and enlarged, which also gives them a lens's softness."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw

from tbps.synthetic.colours import RGB, mixed, scaled, to_rgb

BACKGROUNDS = ("street", "wall", "grass", "corridor")


def draw_background(kind: str, random: Random, size: tuple[int, int], supersampling: int) -> Image.Image:
    """A background of `kind` as an RGB image `supersampling` times as large as `size` (width, height)."""
    width, height = max(24, size[0] // 2), max(48, size[1] // 2)
    small = Image.new("RGB", (width, height), (120, 120, 120))
    draw = ImageDraw.Draw(small, "RGBA")
    {"street": _street, "wall": _wall, "grass": _grass, "corridor": _corridor}[kind](draw, random, width, height)
    _ground_shadow(draw, random, width, height)
    soft = small.resize(size, Image.Resampling.BICUBIC)
    # The enlarged pixels are reduced to the same ones later, so the cheapest filter is exact.
    return soft.resize((size[0] * supersampling, size[1] * supersampling), Image.Resampling.NEAREST)


def _muted(random: Random, low: float, high: float, saturation: float = 0.18) -> RGB:
    return to_rgb(random.random(), random.uniform(0.0, saturation), random.uniform(low, high))


def _street(draw: ImageDraw.ImageDraw, random: Random, width: int, height: int) -> None:
    horizon = round(height * random.uniform(0.25, 0.5))
    facade = _muted(random, 0.4, 0.8)
    draw.rectangle([0, 0, width, horizon], fill=facade)
    step = max(6, round(width * random.uniform(0.2, 0.4)))
    for x in range(-random.randrange(step), width, step):
        for y in range(2, horizon - 4, max(5, height // 10)):
            draw.rectangle([x, y, x + step * 0.55, y + height // 18], fill=scaled(facade, random.uniform(0.45, 0.8)))
    draw.rectangle([0, horizon, width, height], fill=_muted(random, 0.35, 0.62, 0.08))
    draw.line([0, horizon, width, horizon + random.randint(-3, 3)], fill=scaled(facade, 0.6), width=2)
    for _ in range(random.randint(0, 2)):
        _parked_car(draw, random, width, horizon, height)
    for _ in range(random.randint(0, 3)):
        y = random.randint(horizon, height)
        draw.line([0, y, width, y + random.randint(-8, 8)], fill=(*_muted(random, 0.5, 0.9), 140), width=1)


def _parked_car(draw: ImageDraw.ImageDraw, random: Random, width: int, horizon: int, height: int) -> None:
    x, rgb = random.randint(-width // 2, width), to_rgb(random.random(), random.uniform(0.1, 0.8), random.uniform(0.25, 0.9))
    length, tall = round(width * 0.8), height // 12
    y = horizon + random.randint(-2, 4)
    draw.rectangle([x, y - tall // 2, x + length, y + tall // 2], fill=rgb)
    draw.rectangle([x + length // 5, y - tall, x + length * 4 // 5, y - tall // 2], fill=scaled(rgb, 0.6))
    for share in (0.2, 0.8):
        wheel = x + length * share
        draw.ellipse([wheel - 2, y + tall // 2 - 2, wheel + 2, y + tall // 2 + 2], fill=(20, 20, 20))


def _wall(draw: ImageDraw.ImageDraw, random: Random, width: int, height: int) -> None:
    wall = _muted(random, 0.45, 0.85, 0.3)
    floor = round(height * random.uniform(0.75, 0.88))
    draw.rectangle([0, 0, width, height], fill=wall)
    if random.random() < 0.6:
        rows = max(4, height // 16)
        for row, y in enumerate(range(0, floor, rows)):
            draw.line([0, y, width, y], fill=scaled(wall, 0.82), width=1)
            for x in range((row % 2) * rows, width, rows * 2):
                draw.line([x, y, x, y + rows], fill=scaled(wall, 0.85), width=1)
    for _ in range(random.randint(0, 3)):
        x, y, size = random.randrange(width), random.randrange(floor), random.randint(3, max(4, width // 2))
        draw.rectangle([x, y, x + size, y + size * random.uniform(0.5, 1.6)], fill=to_rgb(random.random(), 0.5, 0.7))
    draw.rectangle([0, floor, width, height], fill=_muted(random, 0.3, 0.6, 0.1))


def _grass(draw: ImageDraw.ImageDraw, random: Random, width: int, height: int) -> None:
    horizon = round(height * random.uniform(0.3, 0.5))
    draw.rectangle([0, 0, width, horizon], fill=to_rgb(0.56, random.uniform(0.05, 0.3), random.uniform(0.75, 0.95)))
    for _ in range(random.randint(5, 12)):
        x, y, radius = random.randrange(width), random.uniform(0.2, 1.0) * horizon, random.uniform(0.1, 0.3) * width
        leaf = to_rgb(random.uniform(0.24, 0.38), random.uniform(0.3, 0.6), random.uniform(0.2, 0.45))
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=leaf)
    ground = to_rgb(random.uniform(0.22, 0.32), random.uniform(0.3, 0.55), random.uniform(0.4, 0.62))
    draw.rectangle([0, horizon, width, height], fill=ground)
    for _ in range(40):
        x, y = random.randrange(width), random.randint(horizon, height)
        draw.line([x, y, x + random.randint(-1, 1), y + 3], fill=scaled(ground, random.uniform(0.7, 1.2)), width=1)
    if random.random() < 0.5:
        path = _muted(random, 0.6, 0.8, 0.12)
        draw.polygon(
            [(width * 0.4, horizon), (width * 0.6, horizon), (width * 1.1, height), (-width * 0.1, height)], fill=path
        )


def _corridor(draw: ImageDraw.ImageDraw, random: Random, width: int, height: int) -> None:
    wall, floor = _muted(random, 0.55, 0.9, 0.2), _muted(random, 0.35, 0.75, 0.2)
    horizon, vanishing = round(height * random.uniform(0.28, 0.42)), width * random.uniform(0.2, 0.8)
    draw.rectangle([0, 0, width, height], fill=wall)
    draw.polygon([(-width, height), (vanishing - 4, horizon), (vanishing + 4, horizon), (2 * width, height)], fill=floor)
    draw.rectangle([vanishing - 4, horizon - 8, vanishing + 4, horizon], fill=mixed(wall, (255, 250, 235), 0.6))
    for x in range(-2 * width, 3 * width, max(4, width // 3)):
        draw.line([(vanishing, horizon), (x, height)], fill=scaled(floor, 0.85), width=1)
    for step in range(1, 6):
        y = horizon + (height - horizon) * step * step / 30
        draw.line([0, y, width, y], fill=scaled(floor, 0.85), width=1)
    for share in (random.uniform(-0.1, 0.15), random.uniform(0.75, 0.95)):
        left = width * share
        door = [left, height * 0.2, left + width * 0.2, height * random.uniform(0.6, 0.8)]
        draw.rectangle(door, fill=to_rgb(random.random(), 0.4, random.uniform(0.3, 0.7)))


def _ground_shadow(draw: ImageDraw.ImageDraw, random: Random, width: int, height: int) -> None:
    shift = random.uniform(-0.2, 0.2) * width
    draw.ellipse([width * 0.15 + shift, height * 0.91, width * 0.85 + shift, height * 0.985], fill=(0, 0, 0, 80))
