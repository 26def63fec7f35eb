"""Draws one person: legs, clothes, arms, head and everything carried, in the order that the view asks for."""

from __future__ import annotations

from random import Random

from tbps.synthetic.accessories import draw_bag, draw_bag_straps, draw_held, draw_scarf
from tbps.synthetic.canvas import Canvas
from tbps.synthetic.colours import RGB, contrast_of, scaled
from tbps.synthetic.garment import Profile, draw_folds, draw_pattern, mirrored_rows
from tbps.synthetic.head import draw_hair_behind, draw_head
from tbps.synthetic.palette import Palette
from tbps.synthetic.parsing import NECK, mark
from tbps.synthetic.person import Person
from tbps.synthetic.pose import Limb, Pose

FAR_SIDE = 0.78
"""Brightness of the far arm and leg in side views."""
SEAT = 0.54
"""Height of the seat: what hangs below covers thighs."""
HEM = {"t-shirt": 0.515, "shirt": 0.53, "hoodie": 0.525, "jacket": 0.515, "coat": 0.70, "sweater": 0.525, "tank top": 0.51}


def draw_person(canvas: Canvas, person: Person, palette: Palette, pose: Pose, random: Random) -> None:
    """Draw `person` on `canvas`; side views look to +x, so mirror the canvas for side-left."""
    draw_bag(canvas, person, palette, pose, behind=True)
    if pose.view == "front":
        draw_hair_behind(canvas, person, palette.hair, pose)
    if pose.side:
        _draw_arm(canvas, person, palette, pose.right_arm, "right", FAR_SIDE)
    _draw_legs(canvas, person, palette, pose)
    _draw_neck(canvas, palette.skin)
    _draw_top(canvas, person, palette, pose, random)
    if not pose.side:
        _draw_arm(canvas, person, palette, pose.left_arm, "left", 1.0)
        _draw_arm(canvas, person, palette, pose.right_arm, "right", 1.0)
    draw_bag_straps(canvas, person, palette, pose)
    draw_scarf(canvas, person, palette, pose)
    draw_head(canvas, person, palette, pose)
    draw_bag(canvas, person, palette, pose, behind=False)
    if pose.side:
        _draw_arm(canvas, person, palette, pose.left_arm, "left", 1.0)
    draw_held(canvas, person, palette, pose)


def _draw_neck(canvas: Canvas, skin: RGB) -> None:
    canvas.limb((0.0, 0.115), (0.0, 0.172), (0.026, 0.03), scaled(skin, 0.88), NECK)


def _draw_arm(canvas: Canvas, person: Person, palette: Palette, arm: Limb, which: str, light: float) -> None:
    width = 0.9 + 0.1 * (person.gender == "man") if person.build != "heavy" else 1.12
    skin = scaled(palette.skin, light)
    upper, lower = (mark(f"{which}-arm", part) for part in ("upper-arms", "lower-arms"))
    cloth = scaled(palette.cloth("top", person.top_colour), light * 0.93)
    over = "dress" if person.top == "dress" else "upper-clothes"
    upper_sleeve, lower_sleeve = (mark(over, part) for part in ("upper-arms", "lower-arms"))
    canvas.limb(arm.root, arm.middle, (0.029 * width, 0.023 * width), skin, upper)
    canvas.limb(arm.middle, arm.end, (0.022 * width, 0.016 * width), skin, lower)
    canvas.ellipse(arm.end, 0.019, 0.023, skin, lower)
    if person.sleeve == "none":
        return
    if person.sleeve == "short":
        elbow = tuple(a + (b - a) * 0.66 for a, b in zip(arm.root, arm.middle))
        canvas.limb(arm.root, (elbow[0], elbow[1]), (0.035 * width, 0.033 * width), cloth, upper_sleeve)
        return
    thick = 0.006 if person.top in ("coat", "jacket", "hoodie") else 0.002
    canvas.limb(arm.root, arm.middle, (0.034 * width + thick, 0.027 * width + thick), cloth, upper_sleeve)
    canvas.limb(arm.middle, arm.end, (0.027 * width + thick, 0.021 * width + thick), cloth, lower_sleeve)
    canvas.ellipse((arm.end[0], arm.end[1] + 0.022), 0.015, 0.017, skin, lower)


def _draw_legs(canvas: Canvas, person: Person, palette: Palette, pose: Pose) -> None:
    for which, leg in (("right", pose.right_leg), ("left", pose.left_leg)):
        light = FAR_SIDE if pose.side and which == "right" else 1.0
        skin = scaled(palette.skin, light)
        width = pose.width
        canvas.limb(leg.root, leg.middle, (0.042 * width, 0.031 * width), skin, mark(f"{which}-leg", "upper-legs"))
        canvas.limb(leg.middle, leg.end, (0.03 * width, 0.02), skin, mark(f"{which}-leg", "lower-legs"))
        _draw_shoe(canvas, person, palette, pose, leg, which, light)
        if person.bottom is not None and person.bottom.kind != "skirt":
            _draw_trouser_leg(canvas, person.bottom.kind, palette.cloth("bottom", person.bottom.colour), leg, width, light)
    if person.bottom is None:
        return
    rgb = palette.cloth("bottom", person.bottom.colour)
    if person.bottom.kind == "skirt":
        flare = pose.hip * (1.25 if not pose.side else 1.5)
        skirt = mirrored_rows([(0.42, pose.waist), (0.52, pose.hip * 1.04), (0.70, flare)])
        canvas.polygon(skirt.outline(), rgb, mark("skirt", "upper-legs"))
        for share in (0.3, 0.55, 0.75):
            canvas.shade(skirt.part(0.53, 0.70, share, share + 0.05), 0.2)
    else:
        seat = mirrored_rows([(0.42, pose.waist * 1.02), (0.50, pose.hip), (0.545, pose.hip * 0.96)])
        canvas.polygon(seat.outline(), rgb, mark("pants", "upper-legs"))
        if person.bottom.kind == "jeans":
            canvas.line([(0.0, 0.5), (0.0, 0.55)], 0.004, contrast_of(rgb))


def _draw_trouser_leg(canvas: Canvas, kind: str, rgb: RGB, leg: Limb, width: float, light: float) -> None:
    loose = {"trousers": 1.12, "jeans": 1.0, "shorts": 1.2, "leggings": 0.86}[kind]
    cloth = scaled(rgb, light)
    thigh, knee, ankle = 0.044 * width * loose, 0.036 * width * loose, (0.026 if kind != "trousers" else 0.031) * loose
    canvas.limb(leg.root, leg.middle, (thigh, knee), cloth, mark("pants", "upper-legs"))
    if kind == "shorts":
        return
    canvas.limb(leg.middle, leg.end, (knee, ankle), cloth, mark("pants", "lower-legs"))
    inner = [(leg.root[0], leg.root[1] + 0.06), leg.middle, (leg.end[0], leg.end[1])]
    edge = [(x + thigh * 0.5, y) for x, y in reversed(inner)]
    canvas.shade(inner + edge, 0.14)
    if kind == "jeans":
        canvas.line([(x - thigh * 0.5, y) for x, y in inner], 0.004, contrast_of(cloth))


def _draw_shoe(canvas: Canvas, person: Person, palette: Palette, pose: Pose, leg: Limb, which: str, light: float) -> None:
    rgb = scaled(palette.cloth("shoes", person.shoes.colour), light)
    shoe = mark(f"{which}-shoe", "lower-legs")
    x, y = leg.end
    toe = 0.05 if pose.side else 0.0
    foot = (x + toe * 0.5, y + 0.028)
    radius = 0.048 if pose.side else 0.03
    kind = person.shoes.kind
    if kind == "boots":
        canvas.limb((x, y - 0.085), (x, y + 0.02), (0.029, 0.027), rgb, shoe)
    if kind == "sandals":
        canvas.ellipse(foot, radius, 0.018, palette.skin, shoe)
        canvas.line([(foot[0] - radius, foot[1] - 0.006), (foot[0] + radius, foot[1])], 0.012, rgb, shoe)
        canvas.line([(foot[0] - radius, foot[1] + 0.015), (foot[0] + radius, foot[1] + 0.015)], 0.008, rgb, shoe)
        return
    canvas.ellipse(foot, radius, 0.023, rgb, shoe)
    if kind == "sneakers":
        sole = (245, 245, 245) if sum(rgb) < 600 else (120, 120, 125)
        canvas.line(
            [(foot[0] - radius * 0.9, foot[1] + 0.017), (foot[0] + radius * 0.9, foot[1] + 0.017)], 0.009, sole, shoe
        )
    elif kind == "leather shoes":
        canvas.shade_ellipse((foot[0] + toe * 0.4, foot[1] - 0.006), radius * 0.35, 0.006, 0.5, (255, 255, 255))


def top_profile(person: Person, pose: Pose) -> Profile:
    """The torso of the top or dress; its top edge is the shoulder line."""
    shoulder, waist, hip = pose.shoulder, pose.waist, pose.hip
    loose = 1.1 if person.top in ("coat", "hoodie", "jacket") else 1.0
    rows = [(0.158, 0.034), (0.183, shoulder * 0.86), (0.205, shoulder), (0.25, shoulder * (0.97 if not pose.side else 1.1))]
    if person.top == "tank top" or (person.top == "dress" and person.sleeve == "none"):
        rows = [(0.172, shoulder * 0.55), (0.21, shoulder * 0.72), (0.26, shoulder * (0.92 if not pose.side else 1.05))]
    rows += [(0.40, waist * loose * 1.04)]
    if person.top == "dress":
        rows += [(0.50, hip * 1.08), (0.70, hip * (1.42 if not pose.side else 1.6))]
    elif person.top == "coat":
        rows += [(0.50, hip * 1.12), (0.70, hip * 1.24)]
    else:
        rows += [(HEM[person.top], hip * (1.02 if loose == 1.0 else 1.1))]
    return mirrored_rows(rows)


def _draw_top(canvas: Canvas, person: Person, palette: Palette, pose: Pose, random: Random) -> None:
    rgb = palette.cloth("top", person.top_colour)
    profile = top_profile(person, pose)
    canvas.polygon(profile.outline(), rgb, mark("dress" if person.top == "dress" else "upper-clothes", "torso"))
    if profile.bottom > SEAT:
        canvas.part(profile.part(SEAT, profile.bottom), mark("background", "upper-legs"))
    if person.pattern is not None:
        second = palette.cloth("pattern", person.pattern.colour)
        front, worn_open = pose.view == "front", person.inner_colour is not None
        draw_pattern(canvas, profile, person.pattern.kind, second, from_front=front, worn_open=worn_open)
    if pose.view == "front":
        _draw_front_details(canvas, person, palette, profile, rgb)
    elif pose.side and person.inner_colour is not None:
        inner = palette.cloth("inner", person.inner_colour)
        canvas.polygon(profile.part(0.19, profile.bottom, 0.86, 1.0), inner, None)
    _draw_collar(canvas, person, pose, profile, rgb)
    draw_folds(canvas, profile, random)


def _draw_front_details(canvas: Canvas, person: Person, palette: Palette, profile: Profile, rgb: RGB) -> None:
    """What tells the kinds of tops apart from the front: openings, buttons, zips, pockets."""
    detail = contrast_of(rgb)
    middle = [profile.at(0.19, 0.5), profile.at(profile.bottom, 0.5)]
    if person.top in ("jacket", "coat"):
        if person.inner_colour is not None:
            canvas.polygon(profile.part(0.16, profile.bottom, 0.36, 0.64), palette.cloth("inner", person.inner_colour), None)
            for share in (0.36, 0.64):
                canvas.line([profile.at(0.17, share), profile.at(profile.bottom, share)], 0.005, detail)
        else:
            canvas.line(middle, 0.007, detail)
    if person.top == "shirt":
        canvas.line(middle, 0.005, detail)
        for step in range(6):
            canvas.ellipse((0.0, 0.21 + 0.055 * step), 0.005, 0.005, scaled(detail, 0.7), None)
    elif person.top == "hoodie":
        canvas.polygon(profile.part(0.41, 0.49, 0.22, 0.78), detail, None)
        for sign in (-1, 1):
            canvas.line([(0.016 * sign, 0.175), (0.018 * sign, 0.26)], 0.006, (235, 235, 230))
    elif person.top == "coat" and person.inner_colour is None:
        for step in range(5):
            canvas.ellipse((0.016, 0.25 + 0.08 * step), 0.008, 0.008, scaled(detail, 0.6), None)


def _draw_collar(canvas: Canvas, person: Person, pose: Pose, profile: Profile, rgb: RGB) -> None:
    edge, collar = contrast_of(rgb), mark("upper-clothes", "torso")
    hem = [profile.at(profile.bottom - 0.008, 0.0), profile.at(profile.bottom - 0.008, 1.0)]
    if person.top == "hoodie":
        back = pose.view == "back"
        canvas.ellipse(
            (-0.02 * pose.side, 0.185 if back else 0.168), 0.062, 0.04 if back else 0.024, scaled(edge, 0.95), collar
        )
    elif person.top in ("shirt", "jacket", "coat"):
        for sign in (-1, 1):
            canvas.polygon([(0.005 * sign, 0.168), (0.04 * sign, 0.158), (0.045 * sign, 0.2)], edge, collar)
    elif person.top == "sweater":
        canvas.line([(-0.035, 0.166), (0.0, 0.178), (0.035, 0.166)], 0.014, edge, collar)
    if person.top in ("sweater", "jacket", "hoodie"):
        canvas.line(hem, 0.016, edge)
