"""The 27 attributes of MALS for a synthetic person, and the names of its 91 annotation files.

A label is the index inside a pair of prompts, so 0 = has it for hats, bags and colours; -1 = not known.
Source: the prompts of APTM's published pre-training code.
"""

from __future__ import annotations

from collections.abc import Mapping

from tbps.synthetic.person import Person
from tbps.synthetic.rendering import Shot
from tbps.synthetic.visibility import backpack_hidden

UPPER_COLOURS = ("black", "white", "red", "purple", "yellow", "blue", "green", "gray")
LOWER_COLOURS = ("black", "white", "purple", "yellow", "blue", "green", "pink", "gray", "brown")
ATTRIBUTES = (
    "gender",
    "age",
    "hair length",
    "hat",
    "backpack",
    "handbag",
    "bag",
    "sleeve length",
    "lower length",
    "lower kind",
    *(f"upper {colour}" for colour in UPPER_COLOURS),
    *(f"lower {colour}" for colour in LOWER_COLOURS),
)
SAME_COLOUR: Mapping[str, str] = {"navy": "blue", "light blue": "blue"}
"""Colours of the world that count as one of MALS."""
SUBSETS = (
    "4x",
    "c_g_a",
    *(f"c_g_a_{number}" for number in range(44)),
    "i_g_a",
    *(f"i_g_a_{number}" for number in range(44)),
)
IMAGES_PER_SUBSET = 16_600
"""As in the published set: 1,510,330 pairs in 91 files."""


def subset_of(image: int, num_images: int) -> str:
    """The subset, and with it the annotation file, that holds image number `image`."""
    return SUBSETS[image // max(IMAGES_PER_SUBSET, -(-num_images // len(SUBSETS)))]


def attribute_labels(person: Person, shot: Shot) -> list[int]:
    """27 labels in the order of ATTRIBUTES, each 0, 1 or -1."""
    bag = person.bag.kind if person.bag is not None else None
    dress = person.bottom is None
    kind = "dress" if person.bottom is None else person.bottom.kind
    hair_hidden = person.hat is not None and person.hair_style in ("ponytail", "bun")
    long_hair = -1 if hair_hidden else int(person.hair_style not in ("short", "bald"))
    return [
        int(person.gender == "man"),
        int(person.age == "adult"),
        long_hair,
        int(person.hat is None),
        -1 if backpack_hidden(person, shot) else int(bag != "backpack"),
        int(bag != "handbag"),
        int(bag not in ("shoulder bag", "messenger bag", "suitcase")),
        int(person.sleeve != "long"),
        int(kind in ("shorts", "skirt", "dress")),
        int(kind not in ("dress", "skirt")),
        *_colour_labels(person.top_colour, UPPER_COLOURS),
        *_colour_labels(person.top_colour if dress or person.bottom is None else person.bottom.colour, LOWER_COLOURS),
    ]


def _colour_labels(worn: str, colours: tuple[str, ...]) -> list[int]:
    """0 at the colour that is worn, 1 elsewhere."""
    worn = SAME_COLOUR.get(worn, worn)
    return [int(colour != worn) for colour in colours]
