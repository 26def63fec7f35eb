"""Further things about a pair that a method may ask for (`Needs.fields`) beside its image, caption and identity.

A method's own module may have a `FIELDS` of the same form, with fields of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tbps.config.data import LabelSetName
from tbps.config.needs import Needs
from tbps.data.label_maps import decode_map
from tbps.data.label_sets import LABEL_SETS
from tbps.data.pairs import PairSource


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One further thing about every pair: in a batch, `batch.fields[name]` holds it for each, stacked."""

    read: Callable[[PairSource, int], Tensor]
    """Reads it of one pair, by its number in a source; the same shape for all pairs, but for label maps. Loader workers call
    it, so it must be picklable: a function of a module. ValueError in one sentence where it cannot be had."""
    label_map: bool = False
    """It is a label map of the image: (height, width) uint8, as large as the image file, 0 = background. Whatever moves the
    image's pixels moves it too; a batch has (B, H, W) uint8, of the first view. Erased pixels keep their label."""
    sides: tuple[tuple[int, int], ...] = ()
    """Labels of a map that change places where the image is mirrored: a person's left arm is then the right one."""
    check: Callable[[PairSource], None] | None = None
    """Looks over all pairs at a run's start, within seconds; ValueError where some lack it. None = the first one is read."""


def read_parsing(source: PairSource, index: int, *, label_set: LabelSetName) -> Tensor:
    """(height, width) uint8 labels of the set."""
    return decode_map(source.parsing_bytes(index, label_set), LABEL_SETS[label_set])


def check_parsing(source: PairSource, *, label_set: LabelSetName) -> None:
    """ValueError: an image has no map of the set, or one of those looked at cannot be used."""
    source.check_parsing(label_set)


def read_attributes(source: PairSource, index: int) -> Tensor:
    """(A,) int8: what MALS says of 27 attributes, a place in a pair of prompts (0 or 1), or -1 where it is not known."""
    return torch.from_numpy(source.attributes(index).copy())


FIELDS: Mapping[str, Field] = {
    **{
        f"parsing_{name}": Field(
            read=partial(read_parsing, label_set=name),
            label_map=True,
            sides=label_set.sides,
            check=partial(check_parsing, label_set=name),
        )
        for name, label_set in LABEL_SETS.items()
    },
    "attributes": Field(read=read_attributes),
}
"""What every method may ask for, by name: parsing maps of each label set, and attributes."""


def choose_fields(names: Iterable[str], offered: Mapping[str, Field]) -> dict[str, Field]:
    """The fields of these names. ValueError: there is none of a name; it lists what there is."""
    names = tuple(names)
    if unknown := [name for name in names if name not in offered]:
        raise ValueError(
            f"the method's needs.fields names {unknown[0]!r}, expected one of {', '.join(sorted(offered))}; change it, or"
            " add the field to FIELDS of the method's module"
        )
    return {name: offered[name] for name in names}


def try_fields(fields: Mapping[str, Field], source: PairSource, *, first_pairs: Iterable[int] = (0,)) -> None:
    """Look for each field, so that data without it are refused before training. ValueError names a pair or an image.

    first_pairs: of each data set that the pairs are of.
    """
    for name, field in fields.items() if len(source) else ():
        if field.check is not None:
            field.check(source)
        else:
            for pair in first_pairs:
                read_field(name, field, source, pair)


def check_prompts(needs: Needs, source: PairSource, *, first_pairs: Iterable[int] = (0,)) -> None:
    """ValueError: attributes that the method reads are not as many as its prompts tell of."""
    if "attributes" not in needs.fields or not needs.prompts or not len(source):
        return
    expected = len(needs.prompts) // 2
    for pair in first_pairs:
        if (told := len(source.attributes(pair))) != expected:
            raise ValueError(
                f"the data tell {told} attributes of an image, and the method's prompts pair up to {expected}, expected as"
                " many; set --method.prompts to mals, to pa-100k, or to own with --method.own-prompts"
            )


def read_field(name: str, field: Field, source: PairSource, index: int) -> Tensor:
    """Read one field of one pair. ValueError names both."""
    try:
        return field.read(source, index)
    except ValueError as error:
        raise ValueError(f"pair {source.key(index)}, field {name}: {error}") from error
