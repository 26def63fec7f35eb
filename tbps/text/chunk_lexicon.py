"""Words of pedestrian captions with the part they play in an adjective-noun chunk, for the built-in chunker.

Ours: written from the vocabulary of the benchmarks' domain (colours, patterns, garments, body, belongings). A word that
is not listed is judged by its ending, and else by its place: between an adjective or article and a noun ("black gym shoes"),
or behind an adjective ("red and grey chair"), it is a noun, before a colour ("a marigold yellow dress") an adjective. Words
of no chunk (verbs, prepositions and such) are listed for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

VERSION = 2
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


_COLOURS = _words(
    """
    amber aqua azure beige black blond blonde blue bronze brown brunette burgundy camel charcoal coral cream crimson
    cyan
    ebony emerald fuchsia gold golden gray green grey indigo ivory khaki lavender lilac lime magenta maroon mauve mint
    mustard navy nude ochre olive orange peach pink plum purple red rose ruby rust salmon scarlet silver tan taupe teal
    turquoise violet white yellow bluish blackish brownish grayish greyish greenish pinkish reddish whitish yellowish
    """
)

_ADJECTIVES = _COLOURS | _words(
    """
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
    frail full fancy fanny hairy heavy heavyset large lean leggy little messy middle aged modern muscular neat new old
    overweight petite plump preppy simple skinned slender small sporty stocky straightened stylish tall teenage trendy
    unkempt wavy wiry young younger older adult asian african american caucasian european shaved spiky braided permed

    certain different empty fast female former left lower main male matching metallic other outer inner
    partial rectangular reflective regular right same shaded similar single square special
    triangular uncovered upper various visible whole backless
    """
)

_MODIFIERS = _words(
    """
    ankle button calf chest color colour cotton denim fleece floor fur hip jean knee lace leather length linen mesh neck
    neckline nylon plastic satin shade shoulder silk sleeve style suede thigh tone toned velvet vinyl waist wash zip
    canvas corduroy tweed
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

# What says which of a colour's shades is meant, where a colour follows: "royal blue", "off white".
_SHADES = _words(
    """
    army ash baby blood brick candy canary cherry chocolate cobalt coffee electric forest french hot hunter ice jet lemon
    midnight moss ocean off oxford petrol powder prussian racing rich royal sand sea sky slate smoke steel stone
    strawberry tiffany tomato wine
    """
)

# Words of no chunk, which an unlisted word is not taken for: function words, numbers, verbs, places.
_NO_CHUNK = _words(
    """
    a about above across after again against along also although an and another any are around as at away back
    be because been before behind being below beside besides between both but by can can't could did do does down
    during each either else every for from further had has have he her here hers herself him himself his how i if in
    inside into is it its itself just many may maybe me might more most much my near neither no none nor not of off on
    once one only onto or our out outside over own past per perhaps probably quite rather really seen several she
    should since so some somewhat still such than that the their them themselves then there these they this those
    though through to together too toward towards under underneath until up upon very was were what when where
    which while who whom whose will with within without would you your
    two three four five six seven eight nine ten first second third number
    appears bends bent carries carry carrying catches checks comes cross crosses crossing drags dressed drinks
    drives eats facing faces feature features flows follows get gets give go goes grabs hang hanging hangs have held
    hold holding holds jog jogs keep keeps kneels lead leads lean leans left lie lies lift lifts listen listens look
    looking looks made move moves passes pose poses posing pull pulls push pushes put puts reach reaches read reads
    rest rests ride rides run runs seem seems seen shop shops show showing shown shows sit sits sport sports stand
    standing stands stare stares step steps stop stops stroll strolls take takes talk talks text texting texts tie
    touch touches turn turns use uses using wait waits walk walking walks wear wearing wears worn
    accompanied accompanies adorned attached consists covers covered includes including reveals featuring appear
    almost ahead alone always apparently clearly directly forward instead mostly partially slightly slowly
    straight today together toward visibly well
    """
)

# Words that count only directly before a noun, where they are its modifiers: "t shirt", "running shoes", "asian male".
_BEFORE_NOUN = {
    **dict.fromkeys(("t", "v", "u", "crew"), Role.MODIFIER),
    **dict.fromkeys(_words("running walking hiking shopping swimming jogging rolling sports"), Role.NOUN),
    **dict.fromkeys(("male", "female", "adult", "flat", "square", "mobile"), Role.ADJECTIVE),
}
_OTHERWISE = dict.fromkeys(("male", "female", "adult", "flat", "square", "mobile"), Role.NOUN)

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
_DETERMINERS = _words("a an the his her their its")
_CONJUNCTIONS = frozenset(("and", "or"))
_COPULAS = _words("is are was were be being been looks look seems appears")
# "button up shirt", "rolled up jeans": the particle stays inside the chunk.
_PARTICLES = frozenset(("up", "down", "over", "on"))
_TAKES_PARTICLE = _words("button buttoned lace pull roll rolled slip zip zipped")
_NOMINAL = (Role.NOUN, Role.MODIFIER)
_DESCRIBING = (Role.ADJECTIVE, Role.MODIFIER)
_INSIDE = (Role.ADJECTIVE, *_NOMINAL)


def roles_of(words: Sequence[str]) -> list[Role]:
    """The role of each word of a lower-case caption, seen in its sentence."""
    roles = [_role_alone(word) for word in words]
    for place in range(len(words) - 1, -1, -1):
        roles[place] = _role_in_context(words, roles, place)
    heads = [False]
    for place in range(1, len(words)):
        # "a red soccer cleat": two in a row.
        is_next = heads[-1] and roles[place] is Role.NONE and _may_be_noun(words, place)
        heads.append(is_next or _is_unlisted_head(words, roles, place))
        if heads[-1]:
            roles[place] = Role.NOUN
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
        fitting = _INSIDE if _BEFORE_NOUN[word] is Role.ADJECTIVE else _NOMINAL
        return _BEFORE_NOUN[word] if following in fitting else _OTHERWISE.get(word, Role.NONE)
    if roles[place] is Role.NONE and word in _TAKES_PARTICLE and _is_before_particle(words, roles, place):
        return Role.MODIFIER
    unknown_participle = roles[place] is Role.NONE and word.endswith("ed") and len(word) > 3
    if unknown_participle and place and following in _INSIDE:
        before = words[place - 1]
        if before in _DETERMINERS or roles[place - 1] is Role.ADJECTIVE:
            return Role.ADJECTIVE
    if word in _SHADES and following is Role.ADJECTIVE and words[place + 1] in _COLOURS:
        return Role.ADJECTIVE
    if roles[place] is Role.NONE and _may_be_noun(words, place):
        before, is_described = words[place - 1] if place else "", place and roles[place - 1] in _DESCRIBING
        if following in _NOMINAL and (before in _DETERMINERS or is_described or before in _SHADES):
            return Role.NOUN
        if following is Role.ADJECTIVE and words[place + 1] in _COLOURS and before in _DETERMINERS:
            return Role.ADJECTIVE
    return roles[place]


def _is_before_particle(words: Sequence[str], roles: Sequence[Role], place: int) -> bool:
    """Whether it is as the "slip" of "slip on shoes"."""
    return place + 2 < len(words) and words[place + 1] in _PARTICLES and roles[place + 2] in _INSIDE


def _may_be_noun(words: Sequence[str], place: int) -> bool:
    """Whether an unlisted word can be one: not if it looks like a verb, an adverb or a number."""
    word = words[place]
    if word in _NO_CHUNK or not word.isalpha() or len(word) < 3 or word.endswith(("ing", "ed", "ly")):
        return False
    following = words[place + 1] if place + 1 < len(words) else ""
    return not (word.endswith("s") and following in _DETERMINERS)


def _is_unlisted_head(words: Sequence[str], roles: Sequence[Role], place: int) -> bool:
    """The "chair" of "a red and grey chair": behind an attributive adjective, where no noun follows."""
    if roles[place] is not Role.NONE or roles[place - 1] not in _DESCRIBING or not _may_be_noun(words, place):
        return False
    return not _is_predicate(words, roles, place - 1)


def _is_predicate(words: Sequence[str], roles: Sequence[Role], last: int) -> bool:
    """Whether the adjectives up to place `last` stand behind "is" or "looks": they say something of what came before."""
    first = last
    while first and (roles[first - 1] is Role.ADJECTIVE or words[first - 1] in _CONJUNCTIONS):
        first -= 1
    return bool(first) and words[first - 1] in _COPULAS


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
