"""The 26 attributes of PA-100K for a synthetic person: 1 = there, 0 = not."""

from __future__ import annotations

from tbps.synthetic.person import Person
from tbps.synthetic.rendering import Shot


def pa_100k_labels(person: Person, shot: Shot) -> list[int]:
    """In the order of `tbps.config.pa_100k_prompts`, as far as this world has such things."""
    bag = person.bag.kind if person.bag is not None else None
    pattern = person.pattern.kind if person.pattern is not None else None
    bottom = person.bottom.kind if person.bottom is not None else "dress"
    there = [
        person.gender == "woman",
        False,  # nobody is
        person.age == "adult",
        person.age == "young",
        *(shot.view == "front", shot.view.startswith("side"), shot.view == "back"),
        person.hat is not None,
        person.glasses,
        bag == "handbag",
        bag in ("shoulder bag", "messenger bag"),
        bag == "backpack",
        person.held is not None,
        person.sleeve == "short",
        person.sleeve == "long",
        *(pattern == kind for kind in ("stripes", "logo", "plaid", "two-tone")),
        False,  # stripes below
        False,  # a pattern below
        person.top == "coat",
        bottom not in ("shorts", "skirt", "dress"),
        bottom == "shorts",
        bottom in ("skirt", "dress"),
        person.shoes.kind == "boots",
    ]
    return [int(one) for one in there]
