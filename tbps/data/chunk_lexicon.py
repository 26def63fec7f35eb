"""Words of pedestrian captions with the part they play in an adjective-noun chunk, for the built-in chunker.

Ours: written from the vocabulary of the benchmarks' domain (colours, patterns, garments, body, belongings). A word that
is not listed is judged by its ending, and else belongs to no chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

VERSION = 1
"""Raise it whenever a word or a rule changes: caches of chunks are keyed by it."""


class Role(StrEnum):
    """What a word may do in a chunk."""

    ADJECTIVE = "A"
    NOUN = "N"
    MODIFIER = "M"
    """A noun that may stand before an adjective: the "sleeve" of "long sleeve white shirt"."""
    JOINT = "J"
    """Inside a chunk but not of it: the "and" of "black and white shoes"."""
    NONE = "O"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ADJECTIVES = _words(
    """
    amber aqua azure beige black blond blonde blue bronze brown brunette burgundy camel charcoal coral cream crimson
    cyan
    ebony emerald fuchsia gold golden gray green grey indigo ivory khaki lavender lilac lime magenta maroon mauve mint
    mustard navy nude ochre olive orange peach pink plum purple red rose ruby rust salmon scarlet silver tan taupe teal
    turquoise violet white yellow bluish blackish brownish grayish greyish greenish pinkish reddish whitish yellowish
    bright dark deep dull faded light neon pale pastel vivid colorful colourful multicolored colored coloured multi
    bicolor monochrome

    checked checkered checkerboard chequered dotted floral flowered flowery graphic patterned plaid plain polka printed
    solid spotted striped stripey stripy tartan camouflage camo embroidered animal geometric ornate

    baggy bulky buttoned capped collared collarless cropped cuffed distressed fitted fitting flared flat flowing fluffy
    frilly furry fuzzy heeled high hooded laced layered lightweight long loose low medium mid mini narrow open oversized
    padded plaited pleated puffy quilted ripped round ruffled sheer shiny short shortsleeved sleeved sleeveless
    skinny slim
    slit snug soft stretchy straight strapless strapped strappy tailored thick thin tied tight tiny torn
    transparent tucked unbuttoned unzipped warm washed wide woolen woollen wool woven wrapped wrinkled zipped
    zippered worn

    athletic bare bearded big bald balding casual chubby clean curly dressy elderly elegant fair fashionable fat formal
    frail full fancy hairy heavy heavyset large lean leggy little messy middle aged modern muscular neat new old
    overweight petite plump preppy simple skinned slender small sporty stocky straightened stylish tall teenage trendy
    unkempt wavy wiry young younger older adult asian african american caucasian european shaved spiky braided permed

    certain different empty fast female former left lower main male matching metallic other outer inner
    partial rectangular reflective regular right same shaded similar single square special
    triangular uncovered upper various visible whole backless
    """
)

_MODIFIERS = _words(
    """
    ankle button calf color colour cotton denim fleece fur jean knee lace leather length linen mesh neck neckline
    nylon plastic satin shade shoulder silk sleeve style suede thigh tone toned velvet vinyl waist zip canvas
    corduroy tweed
    """
)

_NOUNS = _words(
    """
    apron attire bandana bangs bathrobe beanie belt bib blazer blouse boot bottom bow bowtie boxer bra bracelet brim
    buckle
    cape cap capri cardigan cargo cloak clog clothes collar clothing coat corset costume coverall cuff dress
    dungaree earmuff flat flop
    footwear frock garment glove gown hat headband headscarf heel helmet hem hijab hood hoodie jacket jean jersey jogger
    jumper jumpsuit kimono lapel legging lining loafer mask mitten moccasin necktie outerwear outfit overall overcoat
    overshirt pajama pant pants pantyhose parka peacoat pinafore pocket polo poncho pullover pump raincoat robe romper
    sandal sari sarong scarf shawl shirt shoe short shorts skirt slack slacks sleeves slipper sneaker sock stocking
    strap stiletto suit suspender sweater sweatpants sweatshirt sweatsuit swimsuit sole tank tee tennis tie tights top
    tracksuit trainer trench trouser trousers trunks tshirt tunic turban turtleneck tutu underwear undershirt
    uniform veil
    vest visor waistcoat windbreaker zipper wristband lanyard

    adult arm back beard body boy brow build cheek chest child chin complexion ear elbow eye eyebrow face finger
    foot feet forehead girl guy hair haircut hairstyle hand head lady leg lip male man men midriff mustache
    moustache nose
    people pedestrian person ponytail pony tail bun braid bob fringe lock bunch side sideburn skin stomach stature
    teenager
    toddler female torso woman women wrist youth kid gentleman student figure frame dreadlock curl pigtail part

    accessory backpack bag ball band bike bicycle book bookbag bottle box briefcase bundle camera cart cellphone chain
    charm clip clutch coffee crutch cup device document drink duffel earbud earphone earring electronic eyeglass
    folder food
    frame glass glasses handbag handkerchief handle headphone item jewelry key keychain lens lid luggage magazine
    messenger
    mobile motorcycle necklace newspaper notebook object pack package paper parcel pendant phone purse ribbon ring
    rucksack sack satchel scrunchie shade shades shopping spectacle stick stroller suitcase sunglass sunglasses tablet
    tag thong tote towel trolley umbrella wallet watch water wheel case scooter skateboard

    accent background badge block border character check colors crosswalk design detail diamond dot edge
    emblem floor flower heart image letter lettering line logo number panel patch patterning pattern picture piece
    print rim road room sidewalk sign spot square stitching star street stripe stripes symbol text trim trimming
    word writing
    material fabric fashion set pair walkway stair staircase wall door building grass ground pavement car bench hallway
    """
)

# Words that count only directly before a noun, where they are its modifiers: "t shirt", "running shoes", "asian male".
_BEFORE_NOUN = {
    **dict.fromkeys(("t", "v", "u", "crew"), Role.MODIFIER),
    **dict.fromkeys(_words("running walking hiking shopping swimming jogging baseball basketball"), Role.NOUN),
    **dict.fromkeys(("male", "female", "adult", "flat", "square"), Role.ADJECTIVE),
}
_OTHERWISE = {"male": Role.NOUN, "female": Role.NOUN, "adult": Role.NOUN, "flat": Role.NOUN, "square": Role.NOUN}

_ADJECTIVE_ENDINGS = ("ish", "less", "colored", "coloured", "striped", "sleeved", "toned", "haired", "length", "ous")
_NOUN_ENDINGS = tuple(
    _words(
        """
    bag band boot boots boy case coat dress girl glasses jacket man men ment pack pants phone phones shirt shoe
    shoes
        shorts skirt suit tion wear woman women
        """
    )
)
_BEFORE_UNKNOWN_PARTICIPLE = _words("a an the his her their its")
_CONJUNCTIONS = frozenset(("and", "or"))
_COPULAS = _words("is are was were be being been looks look seems appears")
# "button up shirt", "rolled up jeans": the particle stays inside the chunk.
_PARTICLES = frozenset(("up", "down", "over", "on"))
_TAKES_PARTICLE = _words("button buttoned zip zipped rolled")
_NOMINAL = (Role.NOUN, Role.MODIFIER)
_INSIDE = (Role.ADJECTIVE, *_NOMINAL)


def roles_of(words: Sequence[str]) -> list[Role]:
    """The role of each word of a lower-case caption, seen in its sentence."""
    roles = [_role_alone(word) for word in words]
    for place in range(len(words) - 1, -1, -1):
        roles[place] = _role_in_context(words, roles, place)
    # Joints need the final roles of both sides.
    for place in range(1, len(words) - 1):
        if _joins(words, roles, place):
            roles[place] = Role.JOINT
    return roles


def _role_alone(word: str) -> Role:
    for singular in _singulars(word):
        if singular in _ADJECTIVES and singular == word:
            return Role.ADJECTIVE
        if singular in _MODIFIERS:
            # "long sleeve white shirt" is one chunk; "long sleeves white shirt" are two.
            return Role.MODIFIER if singular == word else Role.NOUN
        if singular in _NOUNS:
            return Role.NOUN
    if len(word) > 5 and word.endswith(_ADJECTIVE_ENDINGS):
        return Role.ADJECTIVE
    if len(word) > 5 and word.removesuffix("s").endswith(_NOUN_ENDINGS):
        return Role.NOUN
    return Role.NONE


def _singulars(word: str) -> list[str]:
    forms = [word]
    if word.endswith("ies"):
        forms.append(word[:-3] + "y")
    if word.endswith("es"):
        forms.append(word[:-2])
    if word.endswith("s"):
        forms.append(word[:-1])
    return forms


def _role_in_context(words: Sequence[str], roles: Sequence[Role], place: int) -> Role:
    word = words[place]
    following = roles[place + 1] if place + 1 < len(words) else Role.NONE
    if word in _BEFORE_NOUN:
        return _BEFORE_NOUN[word] if following in _NOMINAL else _OTHERWISE.get(word, Role.NONE)
    unknown_participle = roles[place] is Role.NONE and word.endswith("ed") and len(word) > 4
    if unknown_participle and place and following in _INSIDE:
        before = words[place - 1]
        if before in _BEFORE_UNKNOWN_PARTICIPLE or roles[place - 1] is Role.ADJECTIVE:
            return Role.ADJECTIVE
    return roles[place]


def _joins(words: Sequence[str], roles: Sequence[Role], place: int) -> bool:
    if roles[place + 1] not in _INSIDE:
        return False
    if words[place] in _PARTICLES:
        return words[place - 1] in _TAKES_PARTICLE
    if words[place] not in _CONJUNCTIONS or roles[place - 1] is not Role.ADJECTIVE or roles[place + 1] is Role.NOUN:
        return False
    first = place - 1
    while first and roles[first - 1] is Role.ADJECTIVE:
        first -= 1
    # In "the shirt is white and blue jeans" the "white" belongs to the shirt.
    return not (first and words[first - 1] in _COPULAS)
