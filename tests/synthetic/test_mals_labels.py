import random
from dataclasses import replace

import pytest

from tbps.synthetic.mals import ATTRIBUTES, IMAGES_PER_SUBSET, SUBSETS, attribute_labels, subset_of
from tbps.synthetic.person import Item, Person, sample_person
from tbps.synthetic.rendering import Shot, sample_shot

FRONT = Shot(view="front", occluder=None, walking=True)
BACK = Shot(view="back", occluder=None, walking=True)


def labelled(person: Person, shot: Shot = BACK) -> dict[str, int]:
    return dict(zip(ATTRIBUTES, attribute_labels(person, shot), strict=True))


def dressed(**change: object) -> Person:
    person = replace(sample_person(random.Random(5)), gender="woman", age="adult", top="t-shirt", sleeve="short")
    person = replace(person, top_colour="red", bottom=Item("jeans", "navy"), inner_colour=None, hair_style="long")
    return replace(person, **({"hat": None, "bag": None} | change))  # type: ignore[arg-type]


def test_labels_are_27_of_0_1_and_unknown() -> None:
    generator = random.Random(0)
    for _ in range(300):
        labels = attribute_labels(sample_person(generator), sample_shot(generator))
        assert len(labels) == len(ATTRIBUTES) == 27
        assert set(labels) <= {0, 1, -1}


def test_a_label_is_the_index_in_its_pair_of_prompts() -> None:
    labels = labelled(dressed())
    assert labels["gender"] == 0
    assert labels["age"] == 1
    assert labels["hair length"] == 1
    assert [labels[name] for name in ("hat", "backpack", "handbag", "bag")] == [1, 1, 1, 1]
    assert labels["sleeve length"] == 1
    assert labels["lower length"] == 0
    assert labels["lower kind"] == 1
    assert {name for name, label in labels.items() if name.startswith(("upper", "lower ")) and label == 0} == {
        "upper red",
        "lower blue",
        "lower length",
    }


@pytest.mark.parametrize(
    ("change", "name", "label"),
    [
        ({"gender": "man"}, "gender", 1),
        ({"age": "young"}, "age", 0),
        ({"hair_style": "short"}, "hair length", 0),
        ({"hair_style": "bun", "hat": Item("beanie", "red")}, "hair length", -1),
        ({"hat": Item("cap", "red")}, "hat", 0),
        ({"bag": Item("backpack", "red")}, "backpack", 0),
        ({"bag": Item("handbag", "red")}, "handbag", 0),
        ({"bag": Item("messenger bag", "red")}, "bag", 0),
        ({"top": "sweater", "sleeve": "long"}, "sleeve length", 0),
        ({"bottom": Item("shorts", "red")}, "lower length", 1),
        ({"bottom": Item("skirt", "red")}, "lower kind", 0),
        ({"top": "dress", "top_colour": "purple", "bottom": None}, "lower kind", 0),
        ({"top": "dress", "top_colour": "purple", "bottom": None}, "lower purple", 0),
        ({"top_colour": "beige"}, "upper red", 1),
    ],
)
def test_each_attribute_moves_its_label(change: dict[str, object], name: str, label: int) -> None:
    assert labelled(dressed(**change))[name] == label


def test_a_backpack_from_the_front_is_not_known() -> None:
    assert labelled(dressed(bag=Item("backpack", "red")), FRONT)["backpack"] == -1


def test_the_91_files_hold_the_published_set_and_more() -> None:
    assert len(SUBSETS) == len(set(SUBSETS)) == 91
    assert subset_of(0, 10) == subset_of(9, 10) == "4x"
    assert subset_of(IMAGES_PER_SUBSET, 20_000) == "c_g_a"
    assert subset_of(1_510_329, 1_510_330) == "i_g_a_43"
    assert subset_of(2_999_999, 3_000_000) == "i_g_a_43"
