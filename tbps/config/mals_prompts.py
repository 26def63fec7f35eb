"""The sentences that stand for MALS's attributes.

MALS tells of an image, for each of 27 pairs of sentences, which one is true of it: its label is 0 or 1, or -1 where that is
not known. Of hats, bags and colours the first sentence of a pair says that they are there.
"""

from __future__ import annotations

UPPER_COLOURS = ("black", "white", "red", "purple", "yellow", "blue", "green", "gray")
LOWER_COLOURS = ("black", "white", "purple", "yellow", "blue", "green", "pink", "gray", "brown")
WITH_OR_WITHOUT = ("hat", "backpack", "handbag", "bag")


def mals_prompts() -> tuple[str, ...]:
    """The 54 sentences: that of label 0 and that of label 1, attribute after attribute, in the order of MALS's labels.

    Source: APTM's code (Shuyu-XJTU/APTM models/model_retrieval.py): its weights have learned these words.
    """
    pairs = [
        ("is a woman", "is a man"),
        ("is younger than 18 years old", "is older than 18 years old"),
        ("with short hair", "with long hair"),
        *((f"with a {thing}", f"without a {thing}") for thing in WITH_OR_WITHOUT),
        ("wears long sleeved upper clothes", "wears short sleeved upper clothes"),
        ("wears long dress or long pants", "wears short dress or short pants"),
        ("wears dress or skirt", "wears pants or shorts"),
        *(_of_colours(UPPER_COLOURS, "upper")),
        *(_of_colours(LOWER_COLOURS, "lower")),
    ]
    return tuple(f"the person {half}" for pair in pairs for half in pair)


def _of_colours(colours: tuple[str, ...], part: str) -> list[tuple[str, str]]:
    return [(f"wears {colour} {part} clothes", f"does not wear {colour} {part} clothes") for colour in colours]
