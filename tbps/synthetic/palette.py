"""The exact colours of one identity: every image of it and its near-twins share them."""

from __future__ import annotations

from functools import lru_cache

from tbps.synthetic.colours import HAIR_RGB, RGB, SKIN_RGB, sample_rgb, scaled
from tbps.synthetic.person import Person
from tbps.synthetic.randomness import stream


class Palette:
    """RGB values of `person`, drawn from the distributions behind its colour names."""

    def __init__(self, person: Person) -> None:
        self.skin: RGB = scaled(SKIN_RGB[person.skin], _vary(person.shade, "skin"))
        self.hair: RGB = scaled(HAIR_RGB[person.hair_colour], _vary(person.shade, "hair"))
        self.right_handed: bool = stream(person.shade, "hand").random() < 0.6
        """On which side bags hang and things are held."""
        self._shade = person.shade

    def cloth(self, part: str, colour: str) -> RGB:
        """The RGB value of a piece of clothing; a twin with another colour there changes nothing elsewhere."""
        return _cloth(self._shade, part, colour)


@lru_cache(maxsize=4096)
def _cloth(shade: int, part: str, colour: str) -> RGB:
    return sample_rgb(colour, stream(shade, "cloth", part, colour))


def _vary(shade: int, part: str) -> float:
    return stream(shade, part).uniform(0.9, 1.1)
