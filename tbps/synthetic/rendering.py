"""One image of one person: background, figure, occluder, camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from PIL import Image

from tbps.config.data import LabelSetName
from tbps.data.label_sets import BACKGROUND
from tbps.synthetic.camera import Camera, photograph
from tbps.synthetic.canvas import Canvas
from tbps.synthetic.figure import draw_person
from tbps.synthetic.occluder import OCCLUDERS, draw_occluder
from tbps.synthetic.palette import Palette
from tbps.synthetic.parsing import LABEL_SETS
from tbps.synthetic.person import Person, sample_person
from tbps.synthetic.pose import VIEWS, make_pose
from tbps.synthetic.scene import draw_background

OCCLUSION_RATE = 0.15
HEIGHTS = {"short": 0.85, "medium": 0.89, "tall": 0.93}
"""Share of the image's height that a person fills, before the framing varies it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """What one image shows beyond the person."""

    view: str
    occluder: str | None
    walking: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """An image and its label maps of the same size."""

    picture: Image.Image
    maps: Mapping[LabelSetName, Image.Image]
    """Mode L, by label set: those of `parsing.LABEL_SETS`."""


def sample_shot(random: Random) -> Shot:
    """View and occluder of an image."""
    return Shot(
        view=random.choice(VIEWS),
        occluder=random.choice(OCCLUDERS) if random.random() < OCCLUSION_RATE else None,
        walking=random.random() < 0.75,
    )


def render(person: Person, shot: Shot, camera: Camera, image_px: tuple[int, int], random: Random) -> Rendered:
    """Draw `person` at `image_px` (height, width)."""
    height, width = image_px
    supersampling = 2 if height >= 192 else 3
    picture = draw_background(camera.background, random, (width, height), supersampling)
    maps = {name: Image.new("L", (width, height), BACKGROUND) for name in LABEL_SETS}
    share = HEIGHTS[person.height] * (0.94 if person.age == "young" else 1.0) * random.uniform(0.96, 1.03)
    unit = min(share * height, width * 2.9)
    canvas = Canvas(
        picture=picture,
        maps=tuple(maps.values()),
        supersampling=supersampling,
        centre_px=width * (0.5 + random.uniform(-0.06, 0.06)),
        top_px=height * 0.975 - unit + random.uniform(-0.02, 0.02) * height,
        unit_px=unit,
        mirrored=shot.view == "side-left",
    )
    draw_person(canvas, person, Palette(person), make_pose(person, shot.view, shot.walking, random), random)
    if shot.occluder == "pedestrian":
        _draw_passer_by(canvas, random)
    elif shot.occluder is not None:
        draw_occluder(canvas, shot.occluder, random)
    return Rendered(picture=photograph(picture.reduce(supersampling), camera, random), maps=maps)


def _draw_passer_by(canvas: Canvas, random: Random) -> None:
    """Somebody else, cut by the image's edge."""
    other, view = sample_person(random), random.choice(VIEWS)
    beside = Canvas(
        picture=canvas.picture,
        maps=canvas.maps,
        supersampling=canvas.supersampling,
        centre_px=canvas.centre_px + random.choice((-1, 1)) * random.uniform(0.17, 0.22) * canvas.unit_px,
        top_px=canvas.top_px + 0.03 * canvas.unit_px,
        unit_px=canvas.unit_px,
        mirrored=view == "side-left",
        labelled=False,
    )
    draw_person(beside, other, Palette(other), make_pose(other, view, True, random), random)
