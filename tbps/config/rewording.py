"""Settings of how captions are reworded."""

from __future__ import annotations

from dataclasses import dataclass

from tbps.config.ranges import Share, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewording:
    """How a caption becomes one with other words: one operation out of four, on a share of its words ("easy data
    augmentation", arXiv 1901.11196)."""

    share: Share = 0.1
    """Share of the words that are replaced, inserted, exchanged or deleted; at least one of them."""
    synonyms: str = ""
    """A file with a word and, after a tab, its synonyms, separated by commas, in each line. Without one no word is replaced,
    and what is inserted is a word of the caption itself: the paper takes both from WordNet."""

    def __post_init__(self) -> None:
        check_ranges(self, "method.rewording")
