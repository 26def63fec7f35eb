"""Typing habits: lost capitals and full stops, swapped letters, missing spaces."""

from __future__ import annotations

import re
from random import Random


def roughen(text: str, random: Random, *, missing_spaces: bool, min_words: int) -> str:
    """`text` as typed in a hurry; it keeps at least `min_words` words if it had them."""
    if random.random() < 0.06:
        text = text.lower()
    if random.random() < 0.10:
        text = text.removesuffix(".")
    if random.random() < 0.03:
        text = _swapped_letters(text, random)
    if random.random() < 0.03:
        text = text.replace(". ", " , ", 1)
    if missing_spaces and random.random() < 0.2:
        joined = re.sub(r"\. (?=[A-Z])", ".", text)
        text = joined if len(joined.split()) >= min_words else text
    return text


def _swapped_letters(text: str, random: Random) -> str:
    """Two neighbouring letters inside one word of at least five letters change places."""
    words = text.split(" ")
    long = [number for number, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long:
        return text
    number = random.choice(long)
    word, at = words[number], random.randrange(1, len(words[number]) - 2)
    words[number] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)
