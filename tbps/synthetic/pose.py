"""Where the joints of a figure are, for a view, a walking phase and a build, in body units (see `canvas`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from tbps.synthetic.canvas import Point
from tbps.synthetic.person import Person

VIEWS = ("front", "back", "side-left", "side-right")
WIDTHS = {"slim": 0.88, "medium": 1.0, "heavy": 1.2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limb:
    """Three joints: shoulder, elbow, wrist or hip, knee, ankle."""

    root: Point
    middle: Point
    end: Point


@dataclass(frozen=True, kw_only=True, slots=True)
class Pose:
    """A figure's joints. In side views the figure looks to +x; `right` is then its far side, `left` the near one.

    In front views the person's left is at +x, in back views at -x; `left` and `right` are the person's own.
    """

    view: str
    width: float
    """Factor on all widths: build."""
    left_arm: Limb
    right_arm: Limb
    left_leg: Limb
    right_leg: Limb
    shoulder: float
    """Half the width of the shoulders."""
    waist: float
    hip: float

    @property
    def side(self) -> bool:
        """True for side views."""
        return self.view.startswith("side")

    @property
    def left_sign(self) -> int:
        """Sign of x on the person's left in front and back views."""
        return 1 if self.view == "front" else -1


def make_pose(person: Person, view: str, walking: bool, random: Random) -> Pose:
    """A walking or standing pose; `view` is one of VIEWS."""
    width = WIDTHS[person.build]
    stride = random.choice((-1.0, 1.0)) * (random.uniform(0.35, 1.0) if walking else random.uniform(0.0, 0.15))
    woman = person.gender == "woman"
    if view.startswith("side"):
        return _side(view, width, stride, raised=person.held == "phone")
    return _upright(view, width, stride, woman, raised=person.held == "phone")


def _side(view: str, width: float, stride: float, raised: bool) -> Pose:
    shoulder, hip = (0.0, 0.205), (0.0, 0.49)
    near = _arm(shoulder, -0.75 * stride * 0.5, bend=1.7 if raised else 0.35)
    return Pose(
        view=view,
        width=width,
        left_arm=near,
        right_arm=_arm(shoulder, 0.75 * stride * 0.5, bend=0.35),
        left_leg=_leg(hip, 0.42 * stride, stride < 0),
        right_leg=_leg(hip, -0.42 * stride, stride > 0),
        shoulder=0.068 * width,
        waist=0.062 * width,
        hip=0.072 * width,
    )


def _arm(shoulder: Point, angle: float, bend: float) -> Limb:
    elbow = (shoulder[0] + 0.145 * math.sin(angle), shoulder[1] + 0.145 * math.cos(angle))
    wrist = (elbow[0] + 0.135 * math.sin(angle + bend), elbow[1] + 0.135 * math.cos(angle + bend))
    return Limb(root=shoulder, middle=elbow, end=wrist)


def _leg(hip: Point, angle: float, trailing: bool) -> Limb:
    knee = (hip[0] + 0.235 * math.sin(angle), hip[1] + 0.235 * math.cos(angle))
    lower = angle - (0.35 if trailing else 0.05)
    return Limb(root=hip, middle=knee, end=(knee[0] + 0.225 * math.sin(lower), knee[1] + 0.225 * math.cos(lower)))


def _upright(view: str, width: float, stride: float, woman: bool, raised: bool) -> Pose:
    shoulder = (0.098 if woman else 0.112) * width
    hip = (0.088 if woman else 0.084) * width
    left_sign = 1 if view == "front" else -1

    def arm(sign: int, lifted: bool) -> Limb:
        swing = 0.018 * stride * sign
        elbow = (sign * (shoulder + 0.022), 0.338)
        wrist = (sign * shoulder * 0.45, 0.27) if lifted else (sign * (shoulder + 0.028), 0.468 - swing)
        return Limb(root=(sign * (shoulder - 0.018), 0.205), middle=elbow, end=wrist)

    def leg(sign: int) -> Limb:
        lift = max(0.0, 0.05 * stride * sign)
        spread = 0.046 * width
        return Limb(
            root=(sign * spread, 0.49),
            middle=(sign * (spread + 0.004), 0.728 - lift * 0.5),
            end=(sign * (spread - 0.006 * abs(stride)), 0.952 - lift),
        )

    return Pose(
        view=view,
        width=width,
        left_arm=arm(left_sign, raised and view == "front"),
        right_arm=arm(-left_sign, False),
        left_leg=leg(left_sign),
        right_leg=leg(-left_sign),
        shoulder=shoulder,
        waist=(0.07 if woman else 0.082) * width,
        hip=hip,
    )
