"""Who a synthetic person is: attributes that stay the same in all images, how they are drawn at random, near-twins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from random import Random
from typing import Any

from tbps.synthetic.colours import COLOURS
from tbps.synthetic.randomness import stream

AGES = {"adult": 9, "young": 1}
BUILDS = {"slim": 2, "medium": 4, "heavy": 1}
HEIGHTS = {"short": 1, "medium": 3, "tall": 1}
HAIR_COLOURS = {"black": 6, "brown": 4, "blonde": 2, "gray": 1, "red": 1}
HAIR_STYLES = {
    "man": {"short": 12, "bald": 1, "long": 1},
    "woman": {"long": 5, "ponytail": 4, "short": 2, "bun": 2},
}
TOPS = {"t-shirt": 5, "shirt": 4, "hoodie": 3, "jacket": 4, "coat": 2, "sweater": 3, "tank top": 1, "dress": 2}
SLEEVES: Mapping[str, Mapping[str, int]] = {
    "t-shirt": {"short": 5, "long": 1},
    "shirt": {"long": 2, "short": 1},
    "hoodie": {"long": 1},
    "jacket": {"long": 1},
    "coat": {"long": 1},
    "sweater": {"long": 1},
    "tank top": {"none": 1},
    "dress": {"short": 3, "none": 2, "long": 1},
}
PATTERNS = {"stripes": 3, "plaid": 2, "dots": 2, "logo": 2, "two-tone": 2}
OPEN_TOPS = ("jacket", "coat")
"""Tops that may be worn open, so that an inner shirt shows."""
BOTTOMS = {
    "man": {"trousers": 5, "jeans": 4, "shorts": 3},
    "woman": {"trousers": 3, "jeans": 4, "shorts": 2, "skirt": 3, "leggings": 2},
}
BOTTOM_COLOURS: Mapping[str, Mapping[str, int]] = {
    "jeans": {"blue": 4, "light blue": 3, "navy": 2, "black": 2, "gray": 1, "white": 1}
}
SHOES = {"sneakers": 6, "leather shoes": 2, "boots": 2, "sandals": 1}
BAGS = {"backpack": 5, "handbag": 3, "shoulder bag": 3, "messenger bag": 2, "suitcase": 1}
HATS = {"cap": 4, "beanie": 2, "hat": 2}
HELD = {"phone": 3, "umbrella": 2, "bottle": 2, "book": 1}
CLOTHES_COLOURS = dict.fromkeys(COLOURS, 2) | {"black": 6, "white": 4, "gray": 4, "blue": 4, "navy": 3}
ACCESSORY_COLOURS = dict.fromkeys(COLOURS, 2) | {"black": 5}
SHOE_COLOURS = {"black": 5, "white": 5, "gray": 2, "brown": 2, "red": 1, "blue": 1, "pink": 1, "green": 1, "yellow": 1}


@dataclass(frozen=True, slots=True)
class Item:
    """Something worn or carried: its kind and its colour."""

    kind: str
    colour: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """One identity. Every field but `shade` is an attribute; None = does not have it."""

    gender: str
    age: str
    build: str
    height: str
    skin: int
    hair_style: str
    hair_colour: str
    top: str
    top_colour: str
    sleeve: str
    pattern: Item | None
    inner_colour: str | None
    bottom: Item | None
    shoes: Item
    bag: Item | None
    hat: Item | None
    scarf: str | None
    glasses: bool
    held: str | None
    shade: int
    """Keys the exact RGB values and the side on which things are worn; near-twins share it."""

    def attributes(self) -> dict[str, Any]:
        """Every attribute by name, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "shade"}


def differing_attributes(first: Person, second: Person) -> tuple[str, ...]:
    """Names of the attributes in which two people differ."""
    names = (field.name for field in fields(Person) if field.name != "shade")
    return tuple(name for name in names if getattr(first, name) != getattr(second, name))


def pick(random: Random, weights: Mapping[str, int], but: str | None = None) -> str:
    """One key of `weights`, as likely as its weight, never `but`."""
    names = [name for name in weights if name != but]
    return random.choices(names, [weights[name] for name in names])[0]


def sample_person(random: Random) -> Person:
    """A person with independent attributes, as far as clothes allow."""
    gender = random.choice(("man", "woman"))
    top = pick(random, TOPS, but="dress" if gender == "man" else None)
    top_colour = pick(random, CLOTHES_COLOURS)
    bottom_kind = pick(random, BOTTOMS[gender])
    return Person(
        gender=gender,
        age=pick(random, AGES),
        build=pick(random, BUILDS),
        height=pick(random, HEIGHTS),
        skin=random.randrange(6),
        hair_style=pick(random, HAIR_STYLES[gender]),
        hair_colour=pick(random, HAIR_COLOURS),
        top=top,
        top_colour=top_colour,
        sleeve=pick(random, SLEEVES[top]),
        pattern=_sample_pattern(random, top_colour) if random.random() < 0.4 else None,
        inner_colour=pick(random, CLOTHES_COLOURS, but=top_colour) if top in OPEN_TOPS and random.random() < 0.6 else None,
        bottom=None if top == "dress" else Item(bottom_kind, _bottom_colour(random, bottom_kind)),
        shoes=Item(pick(random, SHOES), pick(random, SHOE_COLOURS)),
        bag=_sample_item(random, BAGS, ACCESSORY_COLOURS) if random.random() < 0.6 else None,
        hat=_sample_item(random, HATS, ACCESSORY_COLOURS) if random.random() < 0.25 else None,
        scarf=pick(random, ACCESSORY_COLOURS, but=top_colour) if random.random() < 0.1 else None,
        glasses=random.random() < 0.25,
        held=pick(random, HELD) if random.random() < 0.25 else None,
        shade=random.getrandbits(32),
    )


def _sample_item(random: Random, kinds: Mapping[str, int], colours: Mapping[str, int]) -> Item:
    return Item(pick(random, kinds), pick(random, colours))


def _sample_pattern(random: Random, top_colour: str) -> Item:
    return Item(pick(random, PATTERNS), pick(random, CLOTHES_COLOURS, but=top_colour))


def _bottom_colour(random: Random, kind: str, but: str | None = None) -> str:
    return pick(random, BOTTOM_COLOURS.get(kind, CLOTHES_COLOURS), but=but)


def _other_item(
    random: Random, item: Item | None, kinds: Mapping[str, int], colours: Mapping[str, int], removable: bool
) -> Item | None:
    """Another colour (often), another kind, or gone; something new if there was nothing."""
    if item is None:
        return _sample_item(random, kinds, colours)
    chance = random.random()
    if removable and chance < 0.3:
        return None
    if chance < 0.7:
        return Item(item.kind, pick(random, colours, but=item.colour))
    return Item(pick(random, kinds, but=item.kind), item.colour)


def _other_bottom(person: Person, random: Random) -> Item | None:
    if person.bottom is None:
        return None
    if random.random() < 0.7:
        return Item(person.bottom.kind, _bottom_colour(random, person.bottom.kind, but=person.bottom.colour))
    return Item(pick(random, BOTTOMS[person.gender], but=person.bottom.kind), person.bottom.colour)


def _other_pattern(person: Person, random: Random) -> Item | None:
    if person.pattern is None:
        return _sample_pattern(random, person.top_colour)
    if random.random() < 0.3:
        return None
    return Item(pick(random, PATTERNS, but=person.pattern.kind), person.pattern.colour)


def _other_top(person: Person, random: Random) -> str:
    kinds = [
        kind
        for kind in TOPS
        if kind not in (person.top, "dress")
        and person.sleeve in SLEEVES[kind]
        and (person.inner_colour is None or kind in OPEN_TOPS)
    ]
    return random.choice(kinds) if kinds and person.top != "dress" else person.top


def _other_inner(person: Person, random: Random) -> str | None:
    if person.top not in OPEN_TOPS:
        return None
    return pick(random, CLOTHES_COLOURS, but=person.inner_colour) if random.random() < 0.7 else None


def _other_top_colour(person: Person, random: Random) -> str:
    taken = {person.top_colour, person.pattern.colour if person.pattern else None, person.scarf}
    return random.choice([name for name in COLOURS if name not in taken])


CHANGES: Mapping[str, Callable[[Person, Random], Any]] = {
    "top_colour": _other_top_colour,
    "top": _other_top,
    "sleeve": lambda person, random: pick(random, SLEEVES[person.top]),
    "pattern": _other_pattern,
    "inner_colour": _other_inner,
    "bottom": _other_bottom,
    "shoes": lambda person, random: _other_item(random, person.shoes, SHOES, SHOE_COLOURS, removable=False),
    "bag": lambda person, random: _other_item(random, person.bag, BAGS, ACCESSORY_COLOURS, removable=True),
    "hat": lambda person, random: _other_item(random, person.hat, HATS, ACCESSORY_COLOURS, removable=True),
    "hair_style": lambda person, random: pick(random, HAIR_STYLES[person.gender], but=person.hair_style),
    "hair_colour": lambda person, random: pick(random, HAIR_COLOURS, but=person.hair_colour),
    "scarf": lambda person, random: pick(random, ACCESSORY_COLOURS, but=person.top_colour) if not person.scarf else None,
    "glasses": lambda person, random: not person.glasses,
    "held": lambda person, random: pick(random, HELD, but=person.held) if random.random() < 0.7 else None,
}
"""Attributes in which a near-twin or a wrong caption may differ, and how each is changed."""


def changed(person: Person, random: Random, names: Sequence[str]) -> Person:
    """`person` with exactly one of the attributes `names` changed; unchanged where none of them can be."""
    for name in random.sample(list(names), len(names)):
        other = replace(person, **{name: CHANGES[name](person, random)})
        if other != person:
            return other
    return person


@dataclass(frozen=True, kw_only=True, slots=True)
class Crowd:
    """The people of a world, by number; each can be made without the others, but for a short chain of twins."""

    seed: int
    twin_rate: float
    split_starts: frozenset[int]
    """First identity of each split: it is nobody's twin, so no twins stand in different splits."""

    def is_twin(self, identity: int) -> bool:
        """True if `identity` is the near-twin of the one before."""
        return identity not in self.split_starts and stream(self.seed, "twin", identity).random() < self.twin_rate

    def person(self, identity: int) -> Person:
        """The person with this number."""
        first = identity
        while self.is_twin(first):
            first -= 1
        person = sample_person(stream(self.seed, "person", first))
        for number in range(first + 1, identity + 1):
            person = changed(person, stream(self.seed, "change", number), tuple(CHANGES))
        return person
