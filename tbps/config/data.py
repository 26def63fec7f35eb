"""Settings of the training pairs: which data set, and how images and captions become a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tbps.config.place import PLACE
from tbps.config.ranges import Count, CountOrNone, Range, Share, check_ranges

Benchmark = Literal["cuhk-pedes", "icfg-pedes", "rstpreid", "mals", "coco"]
"""The data sets that can be read, by the name of their format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioning:
    """How captions become tokens."""

    vocabulary: str
    """A Hugging Face tokenizer name, or a local `vocab.txt` / `tokenizer.json`."""
    max_words: Count
    """Words kept of a caption."""
    max_tokens: Annotated[int, Range(2, because="[CLS] and one word piece")]
    """Word pieces kept, [CLS] included; an attribute chunk that does not fit whole is dropped, not cut."""
    max_training_tokens: CountOrNone = 0
    """The same in training; 0 = as `max_tokens`. The official ALBEF, RaSa and MARS cut a caption's words in training, and
    its word pieces in evaluation only."""
    punctuation: Literal["space", "delete"] = "space"
    """ALBEF, RaSa and MARS delete punctuation, which joins "shirt.His" into one word: "delete" repeats that."""
    chunker: Literal["auto", "spacy", "builtin"] = "auto"
    """Who finds adjective-noun chunks: spaCy's en_core_web_sm, the built-in matcher, or the first where installed."""
    chunker_name: str = ""
    """Name and version of that chunker, filled in at the start of a run that needs chunks; if given, no other will do."""

    def __post_init__(self) -> None:
        check_ranges(self, "data.captioning")
        if self.max_training_tokens == 1:
            raise ValueError("data.captioning.max_training_tokens is 1, expected at least 2: [CLS] and one word piece; or 0")

    @property
    def training_tokens(self) -> int:
        """Word pieces kept in training, [CLS] included."""
        return self.max_training_tokens or self.max_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Training pairs and how a batch is made of them."""

    benchmark: Benchmark
    root: str = field(default="", metadata=PLACE)
    """Folder with the annotation file and images as published, or a folder / http(s) / s3 URL of shards with an index."""
    cache: str = field(default="~/.cache/tbps/shards", metadata=PLACE)
    """Where remote shards are kept; the annotations of large data sets, read once, lie in `annotations` beside it."""
    captioning: Captioning
    image_px: Annotated[tuple[int, int], Range(1)]
    """Height and width an image is resized to."""
    augmentation: Literal["none", "flip", "crop-erase", "randaugment"] = "flip"
    """RaSa and MARS: flip; AGA, IRRA: flip + padded crop + erasing; ALBEF: resized crop + flip + two random operations."""
    keep_sides: bool = False
    """Never mirror the image of a pair whose caption, own or swapped, says left or right; official code mirrors them too."""
    weak_positive_probability: Share = 0.0
    """How often a caption is swapped for another of the same identity."""
    weak_positive_pool: Literal["identity", "other-image"] = "identity"
    """Any caption of the identity (RaSa's and MARS's code), or only captions of its other images (the papers' words)."""
    batch_pairs: Count
    """Pairs of one optimiser step over all processes."""
    group_pairs: Annotated[int, Range(2, because="hard negatives need a second pair")]
    """Pairs that contrast with each other (the papers' per-GPU batch); divides `batch_pairs`."""
    micro_batch_pairs: CountOrNone = field(default=0, metadata=PLACE)
    """Pairs of one forward pass on one process; the rest is accumulated. 0 = all of a process's share."""
    workers: CountOrNone = field(default=2, metadata=PLACE)
    """Loader processes per rank."""
    limit_pairs: CountOrNone = 0
    """Use only the first so many pairs (0 = all): for trials."""
    num_identities: CountOrNone = 0
    """Identities of the training pairs, filled in at the start of a run whose method has a class for each of them; if given,
    no other number will do."""

    def __post_init__(self) -> None:
        check_ranges(self, "data")
        if self.keep_sides and self.augmentation == "none":
            raise ValueError(
                'data.keep_sides is on with data.augmentation "none", which mirrors nothing; turn it off, or choose another'
            )
        if self.batch_pairs % self.group_pairs:
            raise ValueError(
                f"data.batch_pairs is {self.batch_pairs}, expected a multiple of data.group_pairs ({self.group_pairs});"
                " change one of them"
            )
        if self.micro_batch_pairs % self.group_pairs:
            raise ValueError(
                f"data.micro_batch_pairs is {self.micro_batch_pairs}, expected a multiple of data.group_pairs"
                f" ({self.group_pairs}) or 0"
            )
