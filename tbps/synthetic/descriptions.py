"""Captions as people write them: what they mention, in which order and words, with omissions and a share of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from tbps.synthetic import wording
from tbps.synthetic.person import Person, changed
from tbps.synthetic.rendering import Shot
from tbps.synthetic.spelling import roughen
from tbps.synthetic.visibility import is_visible

MIN_WORDS, MAX_WORDS = 15, 70

MENTION: Mapping[str, float] = {
    "top": 0.97,
    "bottom": 0.95,
    "shoes": 0.6,
    "bag": 0.85,
    "hat": 0.85,
    "hair": 0.55,
    "scarf": 0.8,
    "glasses": 0.5,
    "held": 0.7,
    "view": 0.45,
}
"""How often something visible is mentioned."""

CHANGEABLE: Mapping[str, Sequence[str]] = {
    "top": ("top_colour", "top", "sleeve", "pattern"),
    "bottom": ("bottom",),
    "shoes": ("shoes",),
    "bag": ("bag",),
    "hat": ("hat",),
    "hair": ("hair_style", "hair_colour"),
    "scarf": ("scarf",),
    "held": ("held",),
}
"""Attributes of which one is told wrongly when a detail is wrong."""

SUBJECTS: Mapping[tuple[str, str], Sequence[str]] = {
    ("man", "adult"): ("man", "man", "male", "guy", "gentleman", "person", "pedestrian", "young man"),
    ("woman", "adult"): ("woman", "woman", "lady", "female", "girl", "person", "pedestrian", "young woman"),
    ("man", "young"): ("boy", "young boy", "teenage boy", "young man", "kid"),
    ("woman", "young"): ("girl", "young girl", "teenage girl", "young lady", "kid"),
}
VIEW_CLAUSES: Mapping[str, Sequence[str]] = {
    "front": ("{} with {his} face to the camera", "{} and facing the camera", "{} and can be seen from the front"),
    "back": ("{} and facing away from the camera", "{} with {his} back to the camera", "{} and is seen from behind"),
    "side-left": ("{} and facing left", "{} with {his} face to the left", "{} and seen from {his} left side"),
    "side-right": ("{} and facing right", "{} with {his} face to the right", "{} and seen from {his} right side"),
}
FILLERS = (
    "The picture shows the whole body of this {subject} from head to toe.",
    "This is a {subject} who was recorded by a camera outside.",
    "There is just one {subject} in the middle of this picture.",
)


def write_caption(person: Person, shot: Shot, random: Random, *, wrong_detail_rate: float, missing_spaces: bool) -> str:
    """One caption of 15 to 70 words; `missing_spaces` leaves out some spaces after full stops, as RSTPReid does."""
    visible = [slot for slot in MENTION if is_visible(person, shot, slot, random)]
    slots = [slot for slot in visible if random.random() < MENTION[slot]]
    spare = [slot for slot in visible if slot not in slots]
    random.shuffle(spare)
    told = person
    for slot in slots:
        if slot in CHANGEABLE and random.random() < wrong_detail_rate:
            told = _told_wrongly(told, random, slot)
    fillers = random.sample(FILLERS, len(FILLERS))
    while True:
        text = _compose(told, shot, slots, random)
        while _words(text) < MIN_WORDS and not spare and fillers:
            text += " " + fillers.pop().format(subject=random.choice(SUBJECTS[person.gender, person.age]))
        if _words(text) < MIN_WORDS and spare:
            slots.append(spare.pop())
        elif _words(text) > MAX_WORDS:
            slots.pop()
        else:
            break
    return roughen(text, random, missing_spaces=missing_spaces, min_words=MIN_WORDS)


def _words(text: str) -> int:
    return len(text.split())


def _told_wrongly(person: Person, random: Random, slot: str) -> Person:
    other = changed(person, random, CHANGEABLE[slot])
    # Leaving a thing out is an omission, not a wrong detail: keep the truth then.
    return person if slot in ("bag", "hat", "scarf", "held") and getattr(other, slot) is None else other


def _compose(person: Person, shot: Shot, slots: Sequence[str], random: Random) -> str:
    """Sentences about `slots`, by one of several plans."""
    writer = _Writer(person, shot, random)
    worn = [slot for slot in ("top", "bottom", "shoes", "hat", "scarf") if slot in slots]
    if random.random() < 0.25:
        random.shuffle(worn)
    late = [worn.pop(worn.index(slot)) for slot in ("shoes", "hat", "scarf") if slot in worn and random.random() < 0.45]
    extra = [slot for slot in slots if slot not in worn]
    extra = [slot for slot in extra if slot not in late] + late
    opening = random.choice((writer.plain_opening, writer.plain_opening, writer.fronted_opening, writer.listing_opening))
    if "hair" in extra and random.random() < 0.4:
        extra.remove("hair")
        sentences = [opening(worn, wording.hair_phrase(person, random))]
    else:
        sentences = [opening(worn, "")]
    random.shuffle(extra)
    return " ".join([*sentences, *writer.following(extra)])


class _Writer:
    """Turns slots into sentences about one person; the first names the person, later ones mostly use a pronoun."""

    def __init__(self, person: Person, shot: Shot, random: Random) -> None:
        self.person, self.shot, self.random = person, shot, random
        self.noun = random.choice(SUBJECTS[person.gender, person.age])
        man = person.gender == "man"
        self.pronoun, self.his = ("He", "his") if man else ("She", "her")
        self.motion_told = False

    def phrase(self, slot: str) -> str:
        """The noun phrase of a slot."""
        if slot == "top":
            return wording.top_phrase(self.person, self.random, from_front=self.shot.view == "front")
        if slot == "glasses":
            return self.random.choice(("glasses", "dark glasses", "a pair of glasses", "sunglasses"))
        if slot == "scarf":
            return wording.article(f"{wording.colour(str(self.person.scarf), self.random)} scarf")
        if slot == "held":
            return self.random.choice(wording.HELD_WORDS[str(self.person.held)])
        if slot == "hair":
            return wording.hair_phrase(self.person, self.random)
        builders = {
            "bottom": wording.bottom_phrase,
            "shoes": wording.shoes_phrase,
            "bag": wording.bag_phrase,
            "hat": wording.hat_phrase,
        }
        return builders[slot](self.person, self.random)

    def plain_opening(self, worn: Sequence[str], hair: str) -> str:
        """The man with short hair is wearing ..."""
        subject = f"{self.random.choice(('The', 'A', 'This', 'The'))} {self.noun}" + (f" with {hair}" if hair else "")
        if not worn:
            return f"{subject} is {self.motion()}."
        verb = self.random.choice(("is wearing", "wears", "is dressed in", "has on", "was wearing", "is in"))
        return f"{subject} {verb} {self.clothes(worn)}."

    def fronted_opening(self, worn: Sequence[str], hair: str) -> str:
        """Wearing ..., the man is walking ..."""
        if not worn:
            return self.plain_opening(worn, hair)
        verb, motion = self.random.choice(("Wearing", "Dressed in")), self.motion()
        also = f" and has {hair}" if hair else ""
        return f"{verb} {self.clothes(worn)}, {self.random.choice(('the', 'this'))} {self.noun} is {motion}{also}."

    def listing_opening(self, worn: Sequence[str], hair: str) -> str:
        """Man with short hair, wearing ..."""
        start = self.random.choice((f"{self.noun.capitalize()}", wording.article(self.noun).capitalize()))
        if hair:
            start += f" with {hair},"
        if not worn:
            return f"{start} who is {self.motion()}."
        return f"{start} {self.random.choice(('wearing', 'in', 'dressed in'))} {self.clothes(worn)}."

    def clothes(self, worn: Sequence[str]) -> str:
        """The noun phrases of what is worn, as a list."""
        return wording.join([self.phrase(slot) for slot in worn], self.random)

    def following(self, slots: Sequence[str]) -> list[str]:
        """One sentence for every one or two of `slots`."""
        sentences, rest = [], [slot for slot in slots if slot != "view" or not self.motion_told]
        while rest:
            first = rest.pop(0)
            sentence = f"{self.start()} {self.clause(first)}"
            if rest and self.random.random() < 0.45:
                sentence += f" and {self.clause(rest.pop(0))}"
            sentences.append(sentence + ".")
        return sentences

    def start(self) -> str:
        """The subject of a later sentence."""
        return self.pronoun if self.random.random() < 0.75 else f"The {self.noun}"

    def clause(self, slot: str) -> str:
        """A verb and its object, without the subject."""
        choose = self.random.choice
        if slot == "view":
            return f"is {self.motion()}"
        phrase = self.phrase(slot)
        if slot == "held":
            return choose((f"is holding {phrase}", f"has {phrase} in {self.his} hand", f"holds {phrase} in one hand"))
        if slot == "hair":
            return f"has {phrase}"
        if slot == "bag" and self.person.bag is not None:
            return self.bag_clause(phrase, self.person.bag.kind)
        if slot == "hat":
            return choose((f"is wearing {phrase}", f"has {phrase} on {self.his} head", f"wears {phrase}"))
        if slot == "scarf":
            return choose((f"has {phrase} around {self.his} neck", f"is wearing {phrase}"))
        if slot == "shoes":
            return choose(
                (f"has {phrase} on", f"wears {phrase}", f"is wearing {phrase}", f"has {phrase} on {self.his} feet")
            )
        return choose((f"is wearing {phrase}", f"wears {phrase}", f"has on {phrase}"))

    def bag_clause(self, phrase: str, kind: str) -> str:
        """How a bag of this kind is carried."""
        choose = self.random.choice
        if kind == "backpack":
            if self.shot.view == "front" and self.random.random() < 0.4:
                return f"has the straps of {phrase} over {self.his} shoulders"
            return choose((f"is carrying {phrase}", f"has {phrase} on {self.his} back", f"is wearing {phrase}"))
        if kind == "suitcase":
            return choose((f"is pulling {phrase}", f"has {phrase} beside {self.his} legs", f"is dragging {phrase}"))
        if kind == "handbag":
            return choose((f"is carrying {phrase}", f"has {phrase} in {self.his} hand", f"is holding {phrase}"))
        return choose((f"is carrying {phrase}", f"is carrying {phrase} at {self.his} side", f"carries {phrase}"))

    def motion(self) -> str:
        """What the person does and where to."""
        self.motion_told = True
        verb = self.random.choice(
            ("walking", "walking", "strolling") if self.shot.walking else ("standing", "standing", "waiting")
        )
        return self.random.choice(VIEW_CLAUSES[self.shot.view]).format(verb, his=self.his)
