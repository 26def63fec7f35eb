"""Noun phrases for what a person wears and carries, with the synonyms and omissions of real captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from tbps.synthetic.person import Person

COLOUR_WORDS: Mapping[str, Sequence[str]] = {
    "gray": ("gray", "grey", "gray", "dark grey"),
    "navy": ("navy", "navy blue", "dark blue", "navy blue"),
    "light blue": ("light blue", "pale blue", "sky blue"),
    "beige": ("beige", "tan", "khaki", "cream-colored"),
    "red": ("red", "red", "red", "bright red"),
    "green": ("green", "green", "dark green"),
    "pink": ("pink", "pink", "light pink"),
    "purple": ("purple", "purple", "violet"),
    "brown": ("brown", "brown", "dark brown"),
    "black": ("black", "black", "black", "dark"),
    "blonde": ("blonde", "blond", "light"),
}
TOP_WORDS: Mapping[str, Sequence[str]] = {
    "t-shirt": ("t-shirt", "tee shirt", "tee", "T-shirt", "t-shirt"),
    "shirt": ("shirt", "button-up shirt", "dress shirt", "collared shirt", "blouse"),
    "hoodie": ("hoodie", "hooded sweatshirt", "hoody", "hooded top"),
    "jacket": ("jacket", "zip-up jacket", "jacket", "windbreaker"),
    "coat": ("coat", "long coat", "overcoat", "trench coat"),
    "sweater": ("sweater", "pullover", "jumper", "knit sweater"),
    "tank top": ("tank top", "sleeveless top", "vest top"),
    "dress": ("dress", "dress", "knee-length dress", "gown"),
}
BOTTOM_WORDS: Mapping[str, Sequence[str]] = {
    "trousers": ("trousers", "pants", "slacks", "long pants"),
    "jeans": ("jeans", "denim pants", "denim jeans", "jeans"),
    "shorts": ("shorts", "short pants", "knee-length shorts", "shorts"),
    "leggings": ("leggings", "tight pants", "leggings"),
}
SKIRT_WORDS = ("skirt", "knee-length skirt", "skirt")
SHOE_WORDS: Mapping[str, Sequence[str]] = {
    "sneakers": ("sneakers", "tennis shoes", "running shoes", "sports shoes", "shoes", "trainers"),
    "leather shoes": ("leather shoes", "dress shoes", "shoes"),
    "boots": ("boots", "ankle boots", "short boots"),
    "sandals": ("sandals", "flip flops", "open shoes"),
}
BAG_WORDS: Mapping[str, Sequence[str]] = {
    "backpack": ("backpack", "rucksack", "back pack", "school bag"),
    "handbag": ("handbag", "hand bag", "purse", "tote bag"),
    "shoulder bag": ("shoulder bag", "shoulder purse", "sling bag"),
    "messenger bag": ("messenger bag", "crossbody bag", "cross-body bag", "satchel"),
    "suitcase": ("suitcase", "rolling suitcase", "trolley case", "luggage case"),
}
HAT_WORDS: Mapping[str, Sequence[str]] = {
    "cap": ("cap", "baseball cap", "cap"),
    "beanie": ("beanie", "knit hat", "woolen hat"),
    "hat": ("hat", "brimmed hat", "sun hat"),
}
HELD_WORDS: Mapping[str, Sequence[str]] = {
    "phone": ("a phone", "a cell phone", "a mobile phone"),
    "umbrella": ("an umbrella", "a closed umbrella", "a folded umbrella"),
    "bottle": ("a bottle", "a water bottle", "a bottle of water"),
    "book": ("a book", "a notebook", "a red book"),
}
SLEEVE_WORDS: Mapping[str, Sequence[str]] = {
    "short": ("short-sleeved", "short sleeve", "short sleeved"),
    "long": ("long-sleeved", "long sleeve", "long sleeved"),
    "none": ("sleeveless",),
}
PATTERN_WORDS: Mapping[str, Sequence[str]] = {
    "stripes": ("striped", "stripes"),
    "plaid": ("plaid", "plaid lines"),
    "dots": ("polka dot", "dots"),
}
HAIR_WORDS: Mapping[str, Sequence[str]] = {
    "short": ("short {} hair", "{} short hair", "{} hair that is cut short"),
    "long": ("long {} hair", "{} hair down past the shoulders", "long, {} hair"),
    "ponytail": ("{} hair in a ponytail", "{} hair tied in a ponytail", "a {} ponytail"),
    "bun": ("{} hair in a bun", "{} hair pulled up into a bun", "a {} bun"),
    "bald": ("a bald head", "a shaved head"),
}


def colour(name: str, random: Random) -> str:
    """A word for the colour called `name`."""
    return random.choice(COLOUR_WORDS.get(name, (name,)))


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it."""
    return f"{'an' if phrase[0].lower() in 'aeiou' else 'a'} {phrase}"


def top_phrase(person: Person, random: Random, *, from_front: bool) -> str:
    """The top or dress, with its colour nine times in ten."""
    words = [colour(person.top_colour, random)] if random.random() < 0.95 else []
    tells_sleeve = person.top in ("t-shirt", "shirt", "sweater", "dress") and random.random() < 0.5
    sleeve = [random.choice(SLEEVE_WORDS[person.sleeve])] if tells_sleeve else []
    noun, after = random.choice(TOP_WORDS[person.top]), ""
    if noun == "blouse" and person.gender == "man":
        noun = "shirt"
    if person.pattern is not None and random.random() < 0.8 and (from_front or person.pattern.kind != "logo"):
        words, after = _patterned(person, words, random)
    if person.inner_colour is not None and from_front and random.random() < 0.7:
        inner = article(f"{colour(person.inner_colour, random)} {random.choice(('shirt', 't-shirt', 'top'))}")
        after += random.choice((f" over {inner}", f", open over {inner}", f" and {inner} underneath"))
    ordered = sleeve + words if random.random() < 0.3 else words + sleeve
    return article(" ".join([*ordered, noun])) + after


def _patterned(person: Person, words: list[str], random: Random) -> tuple[list[str], str]:
    assert person.pattern is not None, "only for tops with a pattern"
    second, kind = colour(person.pattern.colour, random), person.pattern.kind
    if kind == "logo":
        where = random.choice(("on the front", "on the chest", "in front"))
        return words, f" with a {second} {random.choice(('logo', 'print', 'design'))} {where}"
    if kind == "two-tone":
        return words, random.choice((f" with {article(second)} lower half", f" that is {second} at the bottom"))
    before, noun = PATTERN_WORDS[kind]
    if words and random.random() < 0.5:
        return [f"{words[0]} and {second} {before}"], ""
    return words, f" with {second} {noun}"


def bottom_phrase(person: Person, random: Random) -> str:
    """Trousers, shorts or skirt; only for people who wear some."""
    assert person.bottom is not None, "a dress has no bottom"
    word = f"{colour(person.bottom.colour, random)} " if random.random() < 0.96 else ""
    if person.bottom.kind == "skirt":
        return article(word + random.choice(SKIRT_WORDS))
    noun = random.choice(BOTTOM_WORDS[person.bottom.kind])
    return f"{'a pair of ' if random.random() < 0.25 else ''}{word}{noun}"


def shoes_phrase(person: Person, random: Random) -> str:
    """Shoes with their colour."""
    phrase = f"{colour(person.shoes.colour, random)} {random.choice(SHOE_WORDS[person.shoes.kind])}"
    return f"a pair of {phrase}" if random.random() < 0.2 else phrase


def bag_phrase(person: Person, random: Random) -> str:
    """The bag; only for people who carry one."""
    assert person.bag is not None, "only for people with a bag"
    word = f"{colour(person.bag.colour, random)} " if random.random() < 0.85 else ""
    noun = random.choice(BAG_WORDS[person.bag.kind]) if random.random() < 0.85 else "bag"
    return article(word + noun)


def hat_phrase(person: Person, random: Random) -> str:
    """The hat; only for people who wear one."""
    assert person.hat is not None, "only for people with a hat"
    word = f"{colour(person.hat.colour, random)} " if random.random() < 0.85 else ""
    return article(word + random.choice(HAT_WORDS[person.hat.kind]))


def hair_phrase(person: Person, random: Random) -> str:
    """Hair with its colour and style."""
    return random.choice(HAIR_WORDS[person.hair_style]).format(colour(person.hair_colour, random))


def join(phrases: Sequence[str], random: Random) -> str:
    """`phrases` as a list in a sentence."""
    if len(phrases) < 2:
        return "".join(phrases)
    comma = "," if len(phrases) > 2 and random.random() < 0.5 else ""
    return ", ".join(phrases[:-1]) + f"{comma} {random.choice(('and', 'and', 'and', 'with'))} {phrases[-1]}"
