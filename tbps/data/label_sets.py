"""What the labels of human-parsing maps are called: the three label sets for which public parsers exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from tbps.config.data import LabelSetName

BACKGROUND = 0
"""The label of every set that is not the person."""

Part = Literal["", "head", "torso", "arms", "legs"]
"""A part of the body; "" = none of it (background, bag)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSet:
    """The labels of a parsing map. A pixel of the map is the number of its label."""

    name: LabelSetName
    """By what configs, fields and folders name it."""
    title: str
    """By what people name it."""
    labels: tuple[str, ...]
    """Label by number, in small letters with hyphens; left and right are the person's own."""
    sides: tuple[tuple[int, int], ...]
    """(left, right): labels that change places in a mirrored image, where a person's left is the right."""
    parts: tuple[Part, ...]
    """The part of the body that each label is, or that it clothes."""

    def __post_init__(self) -> None:
        assert self.labels[BACKGROUND] == "background" and len(set(self.labels)) == len(self.labels) == len(self.parts)
        assert set(self.parts) <= set(get_args(Part)) and not self.parts[BACKGROUND]

    def __len__(self) -> int:
        """How many labels there are, the background included."""
        return len(self.labels)

    def number(self, label: str) -> int:
        """The number of a label, such as 9 of "left-shoe" in ATR. ValueError: the set has none of that name."""
        if label not in self.labels:
            raise ValueError(f"{self.title} has no label {label!r}, expected one of {', '.join(self.labels)}")
        return self.labels.index(label)


def _label_set(name: LabelSetName, title: str, part_of: Mapping[str, Part]) -> LabelSet:
    labels = tuple(part_of)
    left = [label for label in labels if label.startswith("left-")]
    return LabelSet(
        name=name,
        title=title,
        labels=labels,
        sides=tuple((labels.index(label), labels.index(label.replace("left-", "right-"))) for label in left),
        parts=tuple(part_of.values()),
    )


ATR = _label_set(
    "atr",
    "ATR",
    {
        "background": "",
        "hat": "head",
        "hair": "head",
        "sunglasses": "head",
        "upper-clothes": "torso",
        "skirt": "legs",
        "pants": "legs",
        "dress": "torso",
        "belt": "torso",
        "left-shoe": "legs",
        "right-shoe": "legs",
        "face": "head",
        "left-leg": "legs",
        "right-leg": "legs",
        "left-arm": "arms",
        "right-arm": "arms",
        "bag": "",
        "scarf": "torso",
    },
)
"""18 labels, in the order of SCHP's ATR model (GoGoDuck912/Self-Correction-Human-Parsing: simple_extractor.py,
`dataset_settings`) and of the SegFormer models of clothes (Hugging Face mattmdjaga/segformer_b2_clothes: config.json,
`id2label`)."""

LIP = _label_set(
    "lip",
    "LIP",
    {
        "background": "",
        "hat": "head",
        "hair": "head",
        "glove": "arms",
        "sunglasses": "head",
        "upper-clothes": "torso",
        "dress": "torso",
        "coat": "torso",
        "socks": "legs",
        "pants": "legs",
        "jumpsuits": "torso",
        "scarf": "torso",
        "skirt": "legs",
        "face": "head",
        "left-arm": "arms",
        "right-arm": "arms",
        "left-leg": "legs",
        "right-leg": "legs",
        "left-shoe": "legs",
        "right-shoe": "legs",
    },
)
"""20 labels, in the order of SCHP's LIP model (the same file)."""

PASCAL = _label_set(
    "pascal",
    "Pascal-Person-Part",
    {
        "background": "",
        "head": "head",
        "torso": "torso",
        "upper-arms": "arms",
        "lower-arms": "arms",
        "upper-legs": "legs",
        "lower-legs": "legs",
    },
)
"""7 labels, in the order of SCHP's Pascal-Person-Part model (the same file): the body, whatever it wears. Sides are not told
apart, so a mirrored map needs no exchange. Neck, hand and foot belong to torso, lower arms and lower legs."""

LABEL_SETS: Mapping[LabelSetName, LabelSet] = {one.name: one for one in (ATR, LIP, PASCAL)}
"""By name."""
