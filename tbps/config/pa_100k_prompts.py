"""The sentences that stand for PA-100K's attributes: of each pair the second one says that an attribute is there."""

from __future__ import annotations

SIDES = ("front", "side", "back")
CARRIED = ("hat", "glasses", "handbag", "shoulder bag", "backpack")
WORN = ("long coat", "trousers", "shorts", "a skirt or a dress", "boots")
WEARS = ("does not wear", "wears")
ON_UPPER_CLOTHES = ("stride", "logo", "plaid", "splice", "stripe")
"""The last one is PA-100K's LowerStripe: the official sentences put it on the upper clothes too."""


def pa_100k_prompts() -> tuple[str, ...]:
    """The 52 sentences: that of label 0 and that of label 1, attribute after attribute, in the order of PA-100K's labels.

    Source: APTM's code (Shuyu-XJTU/APTM train_pa100ks.py), word for word, since its weights have learned these words.
    """
    pairs = [
        _either("the person is a {}", "man", "woman"),
        _either("the person is {} than 60 years old", "no more", "older"),
        _either("the person is {}", "a young or old one", "of mid age, between 18 and 60 years old"),
        _either("the person is {}", "older than 18", "a baby or a teenager, younger than 18"),
        *(_either(f"the picture {{}} the {side} of the person", "is not", "shows") for side in SIDES),
        *(_either(f"a person {{}} a {thing}", "without", "with") for thing in CARRIED),
        _either("the person {} an object in front", "does not hold", "hold"),
        *(_either(f"the person {{}} {length} sleeved upper clothes", *WEARS) for length in ("short", "long")),
        *(_either(f"there is {{}}{mark} on the upper clothes of the person", "no ", "") for mark in ON_UPPER_CLOTHES),
        _either("there is {}pattern on the lower part of the person", "no ", ""),
        *(_either(f"the person {{}} {thing}", *WEARS) for thing in WORN),
    ]
    return tuple(sentence for pair in pairs for sentence in pair)


def _either(sentence: str, absent: str, present: str) -> tuple[str, str]:
    return sentence.format(absent), sentence.format(present)
