"""Head, hair, hats and glasses."""

from __future__ import annotations

from tbps.synthetic.canvas import Canvas
from tbps.synthetic.colours import RGB, scaled
from tbps.synthetic.palette import Palette
from tbps.synthetic.parsing import FACE, GLASSES, HAIR, HAT
from tbps.synthetic.person import Person
from tbps.synthetic.pose import Pose

CENTRE_Y = 0.078
RADIUS_X, RADIUS_Y = 0.05, 0.068


def draw_hair_behind(canvas: Canvas, person: Person, rgb: RGB, pose: Pose) -> None:
    """Hair that hangs behind the shoulders, seen from the front."""
    if person.hair_style == "long":
        canvas.ellipse((0.0, 0.085), 0.067, 0.08, scaled(rgb, 0.85), HAIR)
        box = [(-0.067, 0.08), (0.067, 0.08), (0.072, 0.225), (-0.072, 0.225)]
        canvas.polygon(box, scaled(rgb, 0.85), HAIR)


def draw_head(canvas: Canvas, person: Person, palette: Palette, pose: Pose) -> None:
    """Draw the head and what is on it."""
    skin, hair = palette.skin, palette.hair
    canvas.ellipse((0.0, CENTRE_Y), RADIUS_X * (1.08 if pose.side else 1.0), RADIUS_Y, skin, FACE)
    if pose.view == "front":
        _front_hair(canvas, person, hair)
        _front_face(canvas, person, skin)
    elif pose.view == "back":
        _back_hair(canvas, person, hair, skin)
    else:
        _side_hair(canvas, person, hair)
        _side_face(canvas, person, skin)
    if person.hat is not None:
        _hat(canvas, person.hat.kind, palette.cloth("hat", person.hat.colour), pose)


def _front_hair(canvas: Canvas, person: Person, rgb: RGB) -> None:
    if person.hair_style == "bald":
        return
    crown = [(-0.054, 0.075), (-0.052, 0.035), (-0.03, 0.008), (0.0, 0.0), (0.03, 0.008), (0.052, 0.035), (0.054, 0.075)]
    canvas.polygon([*crown, (0.042, 0.05), (0.012, 0.037), (-0.02, 0.045), (-0.042, 0.055)], rgb, HAIR)
    if person.hair_style == "bun":
        canvas.ellipse((0.0, -0.004), 0.026, 0.022, scaled(rgb, 0.9), HAIR)
    if person.hair_style == "long":
        for sign in (-1, 1):
            strand = [(0.045 * sign, 0.04), (0.06 * sign, 0.06), (0.075 * sign, 0.225), (0.045 * sign, 0.225)]
            canvas.polygon(strand, rgb, HAIR)
    elif person.hair_style == "ponytail":
        canvas.polygon([(0.046, 0.06), (0.066, 0.08), (0.06, 0.15), (0.045, 0.12)], scaled(rgb, 0.85), HAIR)


def _front_face(canvas: Canvas, person: Person, skin: RGB) -> None:
    for sign in (-1, 1):
        canvas.ellipse((0.019 * sign, 0.072), 0.006, 0.0045, (30, 24, 24), None)
        canvas.line([(0.01 * sign, 0.06), (0.028 * sign, 0.06)], 0.004, scaled(skin, 0.45))
    canvas.shade([(0.0, 0.075), (0.008, 0.096), (-0.003, 0.096)], 0.25)
    canvas.line([(-0.013, 0.116), (0.013, 0.116)], 0.006, (165, 75, 70))
    if person.glasses:
        for sign in (-1, 1):
            canvas.ellipse((0.02 * sign, 0.072), 0.0165, 0.0125, (22, 22, 26), GLASSES)
        canvas.line([(-0.05, 0.068), (0.05, 0.068)], 0.006, (22, 22, 26), GLASSES)


def _back_hair(canvas: Canvas, person: Person, rgb: RGB, skin: RGB) -> None:
    if person.hair_style == "bald":
        canvas.shade_ellipse((0.01, 0.045), 0.025, 0.02, 0.2, (255, 255, 255))
        return
    canvas.ellipse((0.0, 0.062), 0.056, 0.063, rgb, HAIR)
    if person.hair_style == "long":
        canvas.polygon([(-0.056, 0.06), (0.056, 0.06), (0.072, 0.25), (0.0, 0.265), (-0.072, 0.25)], rgb, HAIR)
        for x in (-0.03, 0.0, 0.03):
            canvas.shade([(x, 0.05), (x + 0.01, 0.05), (x + 0.012, 0.245), (x + 0.002, 0.245)], 0.2)
    elif person.hair_style == "ponytail":
        canvas.ellipse((0.0, 0.06), 0.016, 0.013, scaled(rgb, 0.55), HAIR)
        canvas.polygon([(-0.013, 0.06), (0.013, 0.06), (0.026, 0.16), (0.006, 0.24), (-0.02, 0.16)], scaled(rgb, 0.8), HAIR)
    elif person.hair_style == "bun":
        canvas.ellipse((0.0, 0.022), 0.03, 0.026, scaled(rgb, 0.78), HAIR)


def _side_hair(canvas: Canvas, person: Person, rgb: RGB) -> None:
    if person.hair_style == "bald":
        return
    cap = [(0.042, 0.045), (0.03, 0.012), (0.0, 0.0), (-0.035, 0.012), (-0.058, 0.05), (-0.058, 0.09), (-0.04, 0.125)]
    canvas.polygon([*cap, (-0.015, 0.115), (-0.008, 0.06), (0.02, 0.045)], rgb, HAIR)
    if person.hair_style == "long":
        canvas.polygon([(-0.005, 0.06), (-0.058, 0.06), (-0.085, 0.23), (-0.02, 0.23), (-0.012, 0.12)], rgb, HAIR)
    elif person.hair_style == "ponytail":
        canvas.polygon(
            [(-0.045, 0.03), (-0.09, 0.06), (-0.1, 0.19), (-0.075, 0.16), (-0.052, 0.07)], scaled(rgb, 0.85), HAIR
        )
    elif person.hair_style == "bun":
        canvas.ellipse((-0.06, 0.03), 0.028, 0.026, scaled(rgb, 0.85), HAIR)


def _side_face(canvas: Canvas, person: Person, skin: RGB) -> None:
    canvas.polygon([(0.048, 0.075), (0.064, 0.094), (0.05, 0.1)], skin, FACE)
    canvas.ellipse((0.035, 0.072), 0.006, 0.0045, (30, 24, 24), None)
    canvas.line([(0.034, 0.118), (0.05, 0.117)], 0.006, (165, 75, 70))
    canvas.ellipse((-0.006, 0.085), 0.01, 0.016, scaled(skin, 0.85), FACE)
    if person.glasses:
        canvas.line([(-0.005, 0.07), (0.05, 0.07)], 0.006, (22, 22, 26), GLASSES)
        canvas.ellipse((0.038, 0.073), 0.014, 0.0125, (22, 22, 26), GLASSES)


def _hat(canvas: Canvas, kind: str, rgb: RGB, pose: Pose) -> None:
    if kind == "beanie":
        canvas.polygon(
            [(-0.057, 0.052), (-0.055, 0.0), (-0.03, -0.024), (0.03, -0.024), (0.055, 0.0), (0.057, 0.052)], rgb, HAT
        )
        canvas.line([(-0.058, 0.043), (0.058, 0.043)], 0.022, scaled(rgb, 0.8), HAT)
        canvas.ellipse((0.0, -0.026), 0.013, 0.012, scaled(rgb, 1.15), HAT)
        return
    dome = [(-0.056, 0.04), (-0.05, 0.005), (-0.025, -0.015), (0.025, -0.015), (0.05, 0.005), (0.056, 0.04)]
    canvas.polygon(dome, rgb, HAT)
    if kind == "hat":
        canvas.line([(-0.054, 0.03), (0.054, 0.03)], 0.014, scaled(rgb, 0.55), HAT)
        canvas.ellipse((0.0, 0.042), 0.1, 0.0145, scaled(rgb, 0.88), HAT)
    elif pose.view == "front":
        canvas.ellipse((0.0, 0.042), 0.05, 0.0145, scaled(rgb, 0.75), HAT)
    elif pose.side:
        canvas.polygon([(0.03, 0.026), (0.105, 0.044), (0.1, 0.054), (0.03, 0.046)], scaled(rgb, 0.8), HAT)
    else:
        canvas.line([(-0.02, 0.04), (0.02, 0.04)], 0.008, scaled(rgb, 0.6), HAT)
