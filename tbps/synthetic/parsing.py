"""What is drawn means something in two label sets at once: a piece of clothing in ATR, a part of the body in Pascal's.

A sleeve is clothes in ATR and an arm in Pascal-Person-Part, which sees the body under what it wears. What is carried is no
part of the body; it hides what lies behind, but for a strap.
"""

from __future__ import annotations

from typing import NamedTuple

from tbps.config.data import LabelSetName
from tbps.data.label_sets import ATR, BACKGROUND, PASCAL


class Mark(NamedTuple):
    """The labels of something that is drawn."""

    atr: int
    pascal: int


LABEL_SETS: tuple[LabelSetName, ...] = ("atr", "pascal")
"""Of which the synthetic world writes maps, in the order of a `Mark`."""
NOTHING = Mark(BACKGROUND, BACKGROUND)


def mark(label: str, part: str) -> Mark:
    """That of a label of ATR and a part of Pascal-Person-Part, by their names."""
    return Mark(ATR.number(label), PASCAL.number(part))


HAT, HAIR, GLASSES, FACE = (mark(label, "head") for label in ("hat", "hair", "sunglasses", "face"))
NECK, SCARF = mark("face", "torso"), mark("scarf", "torso")
BAG, STRAP = mark("bag", "background"), mark("bag", "torso")
