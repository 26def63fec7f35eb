"""Captions that a language model wrote: some are no captions. They are left out, and their number is told."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

UNFILLED = ("description]", "<")
"""What a caption holds that its writer left as the template was, by the official code of LUPerson-MLLM."""


@dataclass(kw_only=True)
class MachineCaptions:
    """Keeps the captions of one file that can be used, and counts the others."""

    file: Path
    unfilled: tuple[str, ...] = ()
    """Texts by which a caption is known that was left as its template was."""
    num_empty: int = 0
    num_unfilled: int = 0
    num_images: int = 0
    """Images of which no caption was left."""

    def usable(self, captions: Sequence[str]) -> tuple[str, ...]:
        """Those of one image with a word in them and no rest of a template."""
        kept = []
        for caption in captions:
            if not any(character.isalnum() for character in caption):
                self.num_empty += 1
            elif any(mark in caption for mark in self.unfilled):
                self.num_unfilled += 1
            else:
                kept.append(caption)
        self.num_images += not kept
        return tuple(kept)

    def tell(self) -> None:
        """Warn of what was left out of the file, if anything was."""
        if self.num_empty or self.num_unfilled:
            logger.warning(
                "%s: captions left out: %d without a word, %d left as their template was; %d images have no other there",
                self.file,
                self.num_empty,
                self.num_unfilled,
                self.num_images,
            )
