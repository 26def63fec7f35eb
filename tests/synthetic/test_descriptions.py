import random
from dataclasses import replace

import pytest

from tbps.synthetic.colours import COLOURS
from tbps.synthetic.descriptions import CHANGEABLE, MAX_WORDS, MENTION, MIN_WORDS, write_caption
from tbps.synthetic.person import Item, Person, sample_person
from tbps.synthetic.rendering import Shot, sample_shot
from tbps.synthetic.spelling import roughen
from tbps.synthetic.visibility import is_visible
from tbps.synthetic.wording import COLOUR_WORDS, article, colour, join

SEEN = Shot(view="front", occluder=None, walking=True)


def captions_of(person: Person, shot: Shot, count: int, wrong_detail_rate: float = 0.0) -> list[str]:
    return [
        write_caption(person, shot, random.Random(n), wrong_detail_rate=wrong_detail_rate, missing_spaces=False).lower()
        for n in range(count)
    ]


def dressed(**change: object) -> Person:
    person = replace(sample_person(random.Random(5)), gender="man", top="sweater", sleeve="long", top_colour="orange")
    person = replace(person, pattern=None, inner_colour=None, bottom=Item("trousers", "green"), hat=None, scarf=None)
    person = replace(person, shoes=Item("boots", "brown"), bag=None, held=None, glasses=False, hair_colour="black")
    return replace(person, **change)  # type: ignore[arg-type]


def share(captions: list[str], *words: str) -> float:
    return sum(any(word in caption for word in words) for caption in captions) / len(captions)


@pytest.mark.parametrize("missing_spaces", [False, True])
def test_captions_have_15_to_70_words(missing_spaces: bool) -> None:
    generator = random.Random(0)
    lengths = []
    for _ in range(1500):
        person, shot = sample_person(generator), sample_shot(generator)
        text = write_caption(person, shot, generator, wrong_detail_rate=0.05, missing_spaces=missing_spaces)
        assert "{" not in text
        assert "None" not in text
        lengths.append(len(text.split()))
    assert min(lengths) >= MIN_WORDS
    assert max(lengths) <= MAX_WORDS
    assert max(lengths) > 45, "some captions are long"


def test_somebody_with_everything_is_still_told_in_70_words() -> None:
    laden = dressed(hat=Item("hat", "red"), scarf="red", bag=Item("suitcase", "navy"), held="bottle", glasses=True)
    laden = replace(laden, top="coat", inner_colour="light blue", pattern=Item("logo", "navy"), hair_colour="gray")
    lengths = [len(caption.split()) for caption in captions_of(laden, SEEN, 3000)]
    assert 66 <= max(lengths) <= MAX_WORDS


def test_the_colours_of_top_and_bottom_are_told_nine_times_in_ten() -> None:
    captions = captions_of(dressed(), SEEN, 400)
    assert 0.85 < share(captions, "orange") < 0.99
    assert 0.85 < share(captions, "green") < 0.99


def test_without_wrong_details_no_other_colour_is_named() -> None:
    others = set(COLOURS) - {"orange", "green", "brown", "black", "gray"}
    assert share(captions_of(dressed(), SEEN, 300), *others) == 0.0


def test_wrong_details_come_at_the_set_rate() -> None:
    captions = captions_of(dressed(), SEEN, 600, wrong_detail_rate=0.5)
    # The bottom is told in 95 % of captions with a colour in 96 %; half are wrong, of which 70 % in the colour.
    assert 0.48 < share(captions, "green") < 0.74
    assert share(captions_of(dressed(), SEEN, 600, wrong_detail_rate=1.0), "green") < 0.45


@pytest.mark.parametrize(
    ("change", "view", "words", "seen"),
    [
        ({"glasses": True}, "front", ("glasses",), True),
        ({"glasses": True}, "back", ("glasses",), False),
        ({"held": "phone"}, "side-left", ("phone",), True),
        ({"held": "phone"}, "back", ("phone",), False),
        ({"pattern": Item("logo", "white")}, "front", ("logo", "print", "design"), True),
        ({"pattern": Item("logo", "white")}, "back", ("logo", "print", "design"), False),
    ],
)
def test_what_the_view_hides_is_not_told(change: dict[str, object], view: str, words: tuple[str, ...], seen: bool) -> None:
    told = share(captions_of(dressed(**change), Shot(view=view, occluder=None, walking=True), 200), *words)
    assert (told > 0.3) if seen else (told == 0.0)


def test_a_backpack_is_told_less_from_the_front() -> None:
    words = ("backpack", "back pack", "rucksack", "school bag")
    person = dressed(bag=Item("backpack", "red"))
    front = share(captions_of(person, SEEN, 300), *words)
    back = share(captions_of(person, Shot(view="back", occluder=None, walking=True), 300), *words)
    assert 0.1 < front < back - 0.2


def test_hidden_shoes_are_not_told() -> None:
    captions = captions_of(dressed(), Shot(view="front", occluder="car", walking=True), 200)
    assert share(captions, "boots", "shoes") == 0.0


def test_every_slot_can_be_seen_and_changed() -> None:
    person = dressed(hat=Item("cap", "red"), scarf="red", bag=Item("handbag", "red"), held="book", glasses=True)
    assert all(is_visible(person, SEEN, slot, random.Random(0)) for slot in MENTION)
    assert set(CHANGEABLE) <= set(MENTION)


def test_captions_of_one_image_differ() -> None:
    assert len(set(captions_of(dressed(), SEEN, 100))) > 95


def test_words() -> None:
    generator = random.Random(0)
    assert article("orange bag") == "an orange bag"
    assert article("T-shirt") == "a T-shirt"
    assert join(["x"], generator) == "x"
    assert join([], generator) == ""
    assert colour("teal", generator) == "teal"
    assert {colour("navy", generator) for _ in range(50)} == set(COLOUR_WORDS["navy"])


def test_missing_spaces_join_sentences_as_in_rstpreid() -> None:
    text = "The man wears a red shirt. His trousers are blue."
    rough = [roughen(text, random.Random(n), missing_spaces=True, min_words=5) for n in range(200)]
    assert 0.1 < sum("shirt.His" in line for line in rough) / len(rough) < 0.3
    assert not any("shirt.His" in roughen(text, random.Random(n), missing_spaces=False, min_words=5) for n in range(200))
    assert all(
        len(line.split()) >= 10
        for line in (roughen(text, random.Random(n), missing_spaces=True, min_words=10) for n in range(200))
    )
