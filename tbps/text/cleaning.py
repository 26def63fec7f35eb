"""What is done to a caption as annotated before it is cut into tokens, by a rule's name."""

from __future__ import annotations

import re

from tbps.config.data import Cleaning

_PUNCTUATION = ",.'!?\"()*#:;~"
_DELETE = str.maketrans(dict.fromkeys(_PUNCTUATION, "") | {"-": " ", "/": " "})
_SPACE = str.maketrans(dict.fromkeys(_PUNCTUATION, " ") | {"-": " ", "/": " ", "`": " ", "\u201c": " ", "\u201d": " "})
_INNER_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")
_TYPOGRAPHIC_APOSTROPHE = str.maketrans({"\u2018": "'", "\u2019": "'"})


def clean_caption(caption: str, *, cleaning: Cleaning) -> str:
    """The words of a caption with one space between them. May return "".

    `none`: the words as they are written; what else is done to them is the tokeniser's (CLIP's puts them in lower case).
    `delete` is the official rule of ALBEF, RaSa and MARS: lower case, punctuation deleted, "-" and "/" to spaces, "<person>"
    to "person"; "shirt.His" becomes "shirthis". `space` differs in that "shirt.His" gives "shirt his"; only an apostrophe
    inside a word is deleted ("woman's" gives "womans", as under the official rule), since it parts no two words. It also
    knows typographic quotes and back-ticks, which some captions quote with.
    """
    if cleaning == "none":
        return " ".join(caption.split())
    text = caption.lower()
    if cleaning == "space":
        text = _INNER_APOSTROPHE.sub("", text.translate(_TYPOGRAPHIC_APOSTROPHE)).translate(_SPACE)
    else:
        text = text.translate(_DELETE)
    return " ".join(text.replace("<person>", "person").split())
