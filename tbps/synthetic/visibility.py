"""What an annotator can see in an image: depends on the view and on what stands in front."""

from __future__ import annotations

from random import Random

from tbps.synthetic.occluder import HIDES_FEET
from tbps.synthetic.person import Person
from tbps.synthetic.rendering import Shot


def is_visible(person: Person, shot: Shot, slot: str, random: Random) -> bool:
    """True if `slot` is there and is seen; the straps of a backpack from the front are seen half the time."""
    if slot == "bottom":
        return person.bottom is not None
    if slot == "bag":
        return person.bag is not None and (not backpack_hidden(person, shot) or random.random() < 0.5)
    if slot == "glasses":
        return person.glasses and shot.view != "back"
    if slot == "held":
        return person.held is not None and not (shot.view == "back" and person.held == "phone")
    if slot == "shoes":
        return not feet_hidden(shot)
    if slot in ("hat", "scarf"):
        return getattr(person, slot) is not None
    return True


def feet_hidden(shot: Shot) -> bool:
    """True if something low stands before the feet."""
    return shot.occluder in HIDES_FEET


def backpack_hidden(person: Person, shot: Shot) -> bool:
    """True if the person has a backpack and only its straps can be seen."""
    return person.bag is not None and person.bag.kind == "backpack" and shot.view == "front"
