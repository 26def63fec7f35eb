"""What a method wants of a batch. Its config says so; data, loop and evaluation ask there and know no method.

Everything on request is made only where it is asked for: a method that wants no second view costs no second view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tbps.config.rewording import Rewording


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """The text encoder's tokens: a run refuses a tokeniser that does not fit them."""

    tokeniser: Literal["bert", "clip", "own"] = "bert"
    """Who makes tokens: BERT word pieces, CLIP's byte-pair encoding, or the method's module, with a function
    `open_tokeniser(captioning)`."""
    size: int
    """Different token ids that the encoder knows."""
    max_tokens: int
    """The longest caption that the encoder reads, in tokens, special ones included."""
    start_id: int | None = None
    """Id of the first token, where the encoder relies on it."""
    mask_id: int | None = None
    """Id that stands for a masked word, where the encoder relies on it."""
    ends: bool = False
    """Whether BERT's captions end with [SEP], as BERT's own code has it; ALBEF and its relatives leave it out."""
    settings: str = "method"
    """Settings that hold these values, as messages name them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """Random numbers, uniform in [0, 1), that each pair of a batch brings along under a name."""

    name: str
    """A method reads them as `draws[name]`."""
    per: Literal["pair", "token"] = "pair"
    """`pair`: (B, numbers); `token`: (B, numbers, L), for each token of the own caption."""
    numbers: int = 1
    """How many for each pair or token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a method wants of a batch, of its data and of the machines."""

    text: Text
    """What the text encoder reads."""
    captions: bool = True
    """Whether it reads captions; without, `batch.own` holds one and the same word for every pair."""
    chunks: bool = False
    """Attribute chunks of the training captions: which tokens are a noun with its adjectives."""
    chunk_weights: bool = False
    """A weight for each chunk, by how frequent its words are (MARS, Eq. 14)."""
    vacuous_words: bool = False
    """Which tokens belong to words that say nothing of a person."""
    report_chunks: bool = False
    """Attribute chunks of the captions that its exhibits in the report show."""
    report_vacuous_words: bool = False
    """The same of words that say nothing of a person."""
    second_view: bool = False
    """A second, independently augmented view of each image (for a momentum encoder)."""
    weak_positives: bool = False
    """Whether it makes something of a caption that was swapped for another one of the same identity."""
    rewording: Rewording | None = None
    """A reworded copy of each training caption, as `batch.reworded`; None = none is made."""
    prompts: tuple[str, ...] = ()
    """Sentences that the method reads beside the captions, as `batch.prompts`."""
    word_starts: bool = False
    """Which pieces of captions, reworded ones and prompts begin a word: `Captions.starts_BL`."""
    fields: tuple[str, ...] = ()
    """Further fields of each pair, as `batch.fields[name]`: names of `tbps.data.fields.FIELDS`, or of `FIELDS` of the
    method's own module."""
    draws: tuple[Draw, ...] = ()
    """Random numbers of each pair, drawn in this order."""
    identities: bool = False
    """The number of training identities, for a classifier: `build` gets it as `num_identities`."""
    contrast: Literal["group", "batch"] = "group"
    """What a pair is contrasted with: its group of `data.group_pairs`, or the whole batch over all processes and
    micro-batches (then groups only say how a batch may be shared out)."""
    matcher: bool = True
    """Whether it scores single pairs of image and caption, by which the best images are re-ranked."""
    zero_stages: tuple[int, ...] = (1, 2, 3)
    """Stages of DeepSpeed's ZeRO under which it trains as it does under DDP."""

    def __post_init__(self) -> None:
        names = [draw.name for draw in self.draws]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"needs.draws names {twice[0]!r} {names.count(twice[0])} times, expected once: rename one")
