"""Bags with their straps, scarves and things in the hand."""

from __future__ import annotations

from tbps.synthetic.canvas import Canvas, Point
from tbps.synthetic.colours import RGB, contrast_of, scaled
from tbps.synthetic.palette import Palette
from tbps.synthetic.parsing import BAG, SCARF, STRAP
from tbps.synthetic.person import Person
from tbps.synthetic.pose import Pose


def bag_sign(palette: Palette, pose: Pose) -> int:
    """Sign of x on which a bag hangs. In side views +1 = the near side."""
    if pose.side:
        on_left = not palette.right_handed
        near_is_left = pose.view == "side-left"
        return 1 if on_left == near_is_left else -1
    return pose.left_sign * (-1 if palette.right_handed else 1)


def draw_bag(canvas: Canvas, person: Person, palette: Palette, pose: Pose, *, behind: bool) -> None:
    """Draw the body of the bag if it lies behind (or, else, before) the person in this view."""
    if person.bag is None:
        return
    rgb, sign = palette.cloth("bag", person.bag.colour), bag_sign(palette, pose)
    kind = person.bag.kind
    if kind == "backpack":
        _backpack(canvas, rgb, pose, behind)
    elif kind == "suitcase":
        if behind == (pose.side and sign < 0):
            _suitcase(canvas, rgb, (-0.15, 0.0) if pose.side else (sign * (pose.shoulder + 0.05), 0.0))
    elif behind != (pose.side and sign < 0):
        return
    elif kind == "handbag":
        arm = pose.right_arm if (pose.side and sign < 0) or (not pose.side and palette.right_handed) else pose.left_arm
        _handbag(canvas, rgb, arm.end)
    elif kind == "shoulder bag":
        centre = (0.0, 0.4) if pose.side else (sign * (pose.shoulder + 0.012), 0.395)
        _pouch(canvas, rgb, centre, 0.05, 0.062)
    else:
        centre = (-0.01, 0.52) if pose.side else (sign * pose.hip * 1.05, 0.515)
        _pouch(canvas, rgb, centre, 0.066, 0.046)


def draw_bag_straps(canvas: Canvas, person: Person, palette: Palette, pose: Pose) -> None:
    """Straps over the top: all that a backpack shows from the front."""
    if person.bag is None:
        return
    rgb, kind, sign = scaled(palette.cloth("bag", person.bag.colour), 0.85), person.bag.kind, bag_sign(palette, pose)
    shoulder = pose.shoulder
    if kind == "backpack" and pose.view == "front":
        for side in (-1, 1):
            strap = [(side * shoulder * 0.55, 0.172), (side * shoulder * 0.62, 0.28), (side * shoulder * 0.85, 0.345)]
            canvas.line(strap, 0.022, rgb, STRAP)
    elif kind == "backpack" and pose.side:
        canvas.line([(-0.02, 0.175), (0.03, 0.23), (-0.03, 0.34)], 0.02, rgb, STRAP)
    elif kind == "shoulder bag" and not (pose.side and sign < 0):
        start = (0.0, 0.18) if pose.side else (sign * shoulder * 0.75, 0.18)
        canvas.line([start, (start[0] + 0.02 * sign, 0.36)], 0.012, rgb, STRAP)
    elif kind == "messenger bag":
        ends = ((-0.045, 0.18), (0.03, 0.47)) if pose.side else ((-sign * shoulder * 0.7, 0.178), (sign * pose.hip, 0.48))
        canvas.line(ends, 0.015, rgb, STRAP)


def draw_scarf(canvas: Canvas, person: Person, palette: Palette, pose: Pose) -> None:
    """A scarf round the neck with one loose end."""
    if person.scarf is None:
        return
    rgb = palette.cloth("scarf", person.scarf)
    canvas.ellipse((0.0, 0.162), 0.062, 0.03, rgb, SCARF)
    canvas.polygon([(0.005, 0.165), (0.05, 0.165), (0.06, 0.31), (0.022, 0.31)], scaled(rgb, 0.88), SCARF)
    canvas.line([(-0.05, 0.166), (0.05, 0.172)], 0.006, scaled(rgb, 0.7))


def draw_held(canvas: Canvas, person: Person, palette: Palette, pose: Pose) -> None:
    """A phone, umbrella, bottle or book in the left hand."""
    x, y = pose.left_arm.end
    if person.held == "phone" and pose.view != "back":
        canvas.polygon(
            [(x - 0.016, y - 0.05), (x + 0.018, y - 0.05), (x + 0.018, y + 0.012), (x - 0.016, y + 0.012)],
            (25, 25, 32),
            None,
        )
        canvas.polygon([(x - 0.01, y - 0.043), (x + 0.012, y - 0.043), (x + 0.012, y), (x - 0.01, y)], (150, 190, 225), None)
    elif person.held == "umbrella":
        rgb = palette.cloth("umbrella", ("red", "navy", "green", "purple")[person.shade % 4])
        canvas.polygon(
            [(x - 0.026, y + 0.04), (x + 0.026, y + 0.04), (x + 0.004, y + 0.33), (x - 0.004, y + 0.33)], rgb, None
        )
        canvas.line([(x, y - 0.05), (x, y + 0.04)], 0.012, (70, 45, 30))
    elif person.held == "bottle":
        canvas.polygon(
            [(x - 0.018, y - 0.01), (x + 0.018, y - 0.01), (x + 0.018, y + 0.085), (x - 0.018, y + 0.085)],
            (130, 205, 235),
            None,
        )
        canvas.line([(x, y - 0.032), (x, y - 0.01)], 0.018, (40, 90, 190))
    elif person.held == "book":
        canvas.polygon(
            [(x - 0.035, y - 0.005), (x + 0.035, y - 0.005), (x + 0.035, y + 0.085), (x - 0.035, y + 0.085)],
            (240, 235, 215),
            None,
        )
        canvas.polygon(
            [(x - 0.028, y - 0.005), (x + 0.035, y - 0.005), (x + 0.035, y + 0.078), (x - 0.028, y + 0.078)],
            (165, 50, 45),
            None,
        )


def _backpack(canvas: Canvas, rgb: RGB, pose: Pose, behind: bool) -> None:
    if pose.view == "back" and not behind:
        half = pose.shoulder * 0.86
        body = [
            (-half, 0.215),
            (-half * 0.75, 0.188),
            (half * 0.75, 0.188),
            (half, 0.215),
            (half * 1.04, 0.43),
            (-half * 1.04, 0.43),
        ]
        canvas.polygon(body, rgb, BAG)
        canvas.polygon(
            [(-half * 0.75, 0.32), (half * 0.75, 0.32), (half * 0.75, 0.41), (-half * 0.75, 0.41)], contrast_of(rgb), BAG
        )
        canvas.line([(-half * 0.8, 0.262), (half * 0.8, 0.262)], 0.007, contrast_of(rgb))
        canvas.shade([(half * 0.6, 0.2), (half, 0.215), (half * 1.04, 0.43), (half * 0.6, 0.43)], 0.2)
    elif pose.view == "front" and behind:
        edge = pose.shoulder + 0.012
        canvas.polygon([(-edge, 0.23), (edge, 0.23), (edge, 0.42), (-edge, 0.42)], scaled(rgb, 0.8), BAG)
    elif pose.side and not behind:
        back = -pose.shoulder * 0.75
        body = [(back, 0.19), (back - 0.07, 0.205), (back - 0.095, 0.3), (back - 0.09, 0.42), (back, 0.43)]
        canvas.polygon(body, rgb, BAG)
        canvas.polygon(
            [(back - 0.09, 0.33), (back - 0.05, 0.33), (back - 0.05, 0.41), (back - 0.09, 0.41)], contrast_of(rgb), BAG
        )


def _handbag(canvas: Canvas, rgb: RGB, hand: Point) -> None:
    x, y = hand
    canvas.line([(x - 0.03, y + 0.07), (x, y + 0.01), (x + 0.03, y + 0.07)], 0.011, scaled(rgb, 0.7), BAG)
    canvas.polygon([(x - 0.05, y + 0.065), (x + 0.05, y + 0.065), (x + 0.062, y + 0.16), (x - 0.062, y + 0.16)], rgb, BAG)
    canvas.line([(x - 0.05, y + 0.085), (x + 0.05, y + 0.085)], 0.007, contrast_of(rgb))


def _pouch(canvas: Canvas, rgb: RGB, centre: Point, half_x: float, half_y: float) -> None:
    x, y = centre
    canvas.polygon(
        [(x - half_x, y - half_y), (x + half_x, y - half_y), (x + half_x, y + half_y), (x - half_x, y + half_y)], rgb, BAG
    )
    canvas.polygon(
        [(x - half_x, y - half_y), (x + half_x, y - half_y), (x + half_x, y), (x, y + half_y * 0.3), (x - half_x, y)],
        scaled(contrast_of(rgb), 0.97),
        BAG,
    )
    canvas.ellipse((x, y + half_y * 0.2), 0.008, 0.008, (225, 205, 120), None)


def _suitcase(canvas: Canvas, rgb: RGB, foot: Point) -> None:
    x = foot[0]
    canvas.line([(x - 0.025, 0.72), (x - 0.025, 0.57), (x + 0.025, 0.57), (x + 0.025, 0.72)], 0.009, (90, 90, 95), BAG)
    canvas.polygon([(x - 0.06, 0.71), (x + 0.06, 0.71), (x + 0.06, 0.965), (x - 0.06, 0.965)], rgb, BAG)
    for offset in (-0.03, 0.0, 0.03):
        canvas.line([(x + offset, 0.73), (x + offset, 0.945)], 0.006, contrast_of(rgb))
    for offset in (-0.042, 0.042):
        canvas.ellipse((x + offset, 0.977), 0.015, 0.013, (25, 25, 25), BAG)
