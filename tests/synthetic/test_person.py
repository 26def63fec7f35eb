import random
from collections import Counter

from tbps.synthetic.person import (
    BOTTOMS,
    CHANGES,
    HAIR_STYLES,
    OPEN_TOPS,
    SLEEVES,
    Crowd,
    Person,
    changed,
    differing_attributes,
    sample_person,
)


def assert_wearable(person: Person) -> None:
    assert person.sleeve in SLEEVES[person.top]
    assert (person.bottom is None) == (person.top == "dress")
    assert person.bottom is None or person.bottom.kind in BOTTOMS[person.gender]
    assert person.hair_style in HAIR_STYLES[person.gender]
    assert person.inner_colour is None or person.top in OPEN_TOPS
    assert person.top != "dress" or person.gender == "woman"


def test_twins_differ_from_the_one_before_in_exactly_one_attribute() -> None:
    crowd = Crowd(seed=3, twin_rate=0.5, split_starts=frozenset({0, 200}))
    differences: Counter[str] = Counter()
    for identity in range(400):
        person = crowd.person(identity)
        assert_wearable(person)
        if crowd.is_twin(identity):
            before = crowd.person(identity - 1)
            differing = differing_attributes(before, person)
            assert len(differing) == 1
            assert person.shade == before.shade
            differences.update(differing)
    assert 150 < sum(differences.values()) < 250
    assert len(differences) >= 12, "twins differ in all kinds of ways"


def test_the_first_of_a_split_is_nobodys_twin() -> None:
    crowd = Crowd(seed=3, twin_rate=1.0, split_starts=frozenset({0, 5}))
    assert [crowd.is_twin(identity) for identity in range(7)] == [False, True, True, True, True, False, True]


def test_every_change_of_every_person_stays_wearable() -> None:
    generator = random.Random(0)
    for _ in range(300):
        person = sample_person(generator)
        assert_wearable(person)
        for name in CHANGES:
            other = changed(person, generator, (name,))
            assert_wearable(other)
            assert differing_attributes(person, other) in ((), (name,))


def test_a_person_depends_on_the_seed_and_the_number_only() -> None:
    crowd = Crowd(seed=3, twin_rate=0.3, split_starts=frozenset({0}))
    forwards = [crowd.person(identity) for identity in range(30)]
    backwards = [crowd.person(identity) for identity in reversed(range(30))]
    assert forwards == backwards[::-1]
    assert forwards != [Crowd(seed=4, twin_rate=0.3, split_starts=frozenset({0})).person(identity) for identity in range(30)]
