"""The method's settings, and what it needs of a batch. Imports nothing heavy: `recipe.py --help` reads it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tbps.config.methods.method import MethodConfig
from tbps.config.needs import Draw, Needs, Text
from tbps.config.ranges import Count, Positive, Share


@dataclass(frozen=True, kw_only=True, slots=True)
class Toy(MethodConfig):
    """Images by coloured rows, captions by windows of letters, both contrasted over the whole batch."""

    MODULE: ClassVar[str] = "toy.method"

    width: Count = 64
    """Numbers of a feature."""
    dropout: Share = 0.1
    """Share of features' units that training drops."""
    hidden_letters: Share = 0.05
    """Share of a caption's letters that training hides."""
    other_camera: Positive = 0.5
    """Weight of two pairs from different cameras, where 1 is that of two from the same one: those are harder to part."""

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """Letters, a number for each, and the camera of each pair."""
        return Needs(
            text=Text(tokeniser="own", size=40, max_tokens=512),
            draws=(Draw(name="hidden", per="token"),),
            fields=("camera",),
            contrast="batch",
            matcher=False,
        )
