"""From a caption as annotated to token ids with attribute chunks, and to a padded batch."""

# B captions, L tokens of the longest, C chunks

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tbps.text.chunks import Chunker, ContentWord, chunk_weight
from tbps.text.token_batch import Captions, pad_rows
from tbps.text.vacuous_words import VACUOUS_WORDS
from tbps.text.word_pieces import Vocabulary

_PUNCTUATION = ",.'!?\"()*#:;~"
_DELETE = str.maketrans(dict.fromkeys(_PUNCTUATION, "") | {"-": " ", "/": " "})
_SPACE = str.maketrans(dict.fromkeys(_PUNCTUATION, " ") | {"-": " ", "/": " ", "`": " ", "\u201c": " ", "\u201d": " "})
_INNER_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")
_TYPOGRAPHIC_APOSTROPHE = str.maketrans({"\u2018": "'", "\u2019": "'"})
_SIDE = re.compile(r"\b(?:left|right)(?:s|most|side|ward|wards|hand|handed)?\b")
_PAD_MULTIPLE = 8


Punctuation = Literal["space", "delete"]


def clean_caption(caption: str, *, max_words: int | None = None, punctuation: Punctuation) -> str:
    """Lower case, punctuation gone, "-" and "/" to spaces, "<person>" to "person", spaces squeezed, first words kept.

    `delete` is the official rule of ALBEF, RaSa and MARS: "shirt.His" becomes "shirthis". `space` gives "shirt his"; only
    an apostrophe inside a word is deleted ("woman's" gives "womans", as under the official rule), since it parts no two
    words. `space` also knows typographic quotes and back-ticks, which some captions quote with. May return "".
    """
    text = caption.lower()
    if punctuation == "space":
        text = _INNER_APOSTROPHE.sub("", text.translate(_TYPOGRAPHIC_APOSTROPHE)).translate(_SPACE)
    else:
        text = text.translate(_DELETE)
    return " ".join(text.replace("<person>", "person").split()[:max_words])


def says_side(caption: str) -> bool:
    """Whether a caption as annotated tells left from right, so that it is wrong of the mirrored image."""
    return _SIDE.search(caption.lower()) is not None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedCaption:
    """One caption as ids. Starts with [CLS] and has no [SEP], as in the official code."""

    token_ids: Tensor
    """(T,) int64."""
    chunk_ids: Tensor
    """(T,) int64: 0 = in no attribute chunk, c >= 1 = in chunk c, counted from the left without gaps."""
    chunk_weights: Tensor | None = None
    """(chunks,) float32: weight of chunk c at c - 1 (MARS Eq. 14), where the encoder was given word frequencies."""
    vacuous: Tensor | None = None
    """(T,) bool: pieces of semantically vacuous words, where the encoder was asked to mark them."""
    num_dropped_chunks: int = 0
    """Chunks left out because not all of their tokens fit."""
    num_dropped_tokens: int = 0
    """Word pieces beyond the cap."""
    num_dropped_words: int = 0
    """Words beyond their cap; they were cut before the caption was made into word pieces."""

    @property
    def is_cut(self) -> bool:
        """Whether a part of the caption was left out."""
        return bool(self.num_dropped_tokens or self.num_dropped_words)

    @property
    def num_chunks(self) -> int:
        """Chunks that were kept."""
        return int(self.chunk_ids.max())


class CaptionEncoder:
    """Cleans captions, cuts them into word pieces and marks their attribute chunks. Picklable.

    `max_words` words of the cleaned caption are kept, then `max_tokens` tokens, [CLS] included; a chunk that does not fit
    whole is dropped and counted. `chunker` is asked about all words of the caption, so that what it found can be kept for
    any cap (`KeptChunks`: finding is slow); without it there are no chunks. With `frequencies` (`chunk_frequencies`)
    every chunk gets its weight; with `mark_vacuous` pieces of semantically vacuous words are marked.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        max_words: int,
        max_tokens: int,
        punctuation: Punctuation,
        chunker: Chunker | None,
        frequencies: Mapping[str, float] | None = None,
        mark_vacuous: bool = False,
    ) -> None:
        if max_words < 1:
            raise ValueError(f"max_words is {max_words}, expected at least 1")
        if max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}, expected at least 2: [CLS] and one word piece")
        self.vocabulary = vocabulary
        self.max_words = max_words
        self.max_tokens = max_tokens
        self.punctuation: Punctuation = punctuation
        self.chunker = chunker
        self.frequencies = None if frequencies is None else dict(frequencies)
        self.mark_vacuous = mark_vacuous

    def clean(self, caption: str) -> str:
        """The text that is encoded."""
        return clean_caption(caption, max_words=self.max_words, punctuation=self.punctuation)

    def encode(self, caption: str, key: str) -> EncodedCaption:
        """Ids and chunks of one caption; `key` names its pair in messages.

        Raises ValueError where no word piece is left after cleaning.
        """
        every_word = clean_caption(caption, punctuation=self.punctuation).split()
        text, dropped_words = " ".join(every_word[: self.max_words]), max(0, len(every_word) - self.max_words)
        pieces = self.vocabulary.encode(text)
        if not pieces.ids:
            raise ValueError(
                f"pair {key}: its caption {caption[:80]!r} has no word left after cleaning, expected at least one;"
                " correct the caption or remove the pair"
            )
        room = self.max_tokens - 1
        token_ids = _int64([self.vocabulary.cls_id, *pieces.ids[:room]])
        dropped = max(0, len(pieces.ids) - room)
        vacuous = torch.tensor([False, *_is_vacuous(text, pieces.offsets)[:room]]) if self.mark_vacuous else None
        if self.chunker is None:
            return EncodedCaption(
                token_ids=token_ids,
                chunk_ids=torch.zeros_like(token_ids),
                vacuous=vacuous,
                num_dropped_tokens=dropped,
                num_dropped_words=dropped_words,
            )
        words = next(iter(self.chunker.words([" ".join(every_word)])))
        chunk_ids = _chunk_of_pieces(words, pieces.offsets)
        beyond = {word.chunk for word in words if word.end > len(text)}
        number = _kept_chunks(chunk_ids, room, beyond)
        return EncodedCaption(
            token_ids=token_ids,
            chunk_ids=_int64([0, *(number.get(chunk, 0) for chunk in chunk_ids[:room])]),
            chunk_weights=None if self.frequencies is None else _weights(text, words, number, self.frequencies),
            vacuous=vacuous,
            num_dropped_chunks=len({word.chunk for word in words} - {0}) - len(number),
            num_dropped_tokens=dropped,
            num_dropped_words=dropped_words,
        )

    def encode_many(self, captions: Sequence[str], keys: Sequence[str]) -> list[EncodedCaption]:
        """`encode` of each caption with its key, in order."""
        return [self.encode(caption, key) for caption, key in zip(captions, keys, strict=True)]


def make_captions(encoded: Sequence[EncodedCaption]) -> Captions:
    """Stack B captions, padded with 0 to the longest, rounded up to a multiple of 8. B >= 1."""
    lengths = tuple(len(caption.token_ids) for caption in encoded)
    padded = -(-max(lengths) // _PAD_MULTIPLE) * _PAD_MULTIPLE
    weights = [caption.chunk_weights for caption in encoded if caption.chunk_weights is not None]
    vacuous = [caption.vacuous for caption in encoded if caption.vacuous is not None]
    assert len(weights) in (0, len(encoded)), "captions with and without chunk weights come from different encoders"
    assert len(vacuous) in (0, len(encoded)), "captions with and without marked words come from different encoders"
    return Captions(
        token_ids_BL=pad_rows([caption.token_ids for caption in encoded], length=padded),
        lengths=lengths,
        chunk_id_BL=pad_rows([caption.chunk_ids for caption in encoded], length=padded),
        chunk_weight_BC=pad_rows(weights, length=max(map(len, weights))) if weights else None,
        vacuous_BL=pad_rows(vacuous, length=padded) if vacuous else None,
    )


def _int64(values: list[int]) -> Tensor:
    # Several times faster than torch.tensor on a list.
    return torch.from_numpy(np.array(values, dtype=np.int64))


def _is_vacuous(text: str, offsets: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each word piece lies in a vacuous word."""
    spans = []
    place = 0
    for word in text.split(" "):
        spans.append((place + len(word), word in VACUOUS_WORDS))
        place += len(word) + 1
    found, index = [], 0
    for _, end in offsets:
        while spans[index][0] < end:
            index += 1
        found.append(spans[index][1])
    return found


def _chunk_of_pieces(words: Sequence[ContentWord], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The chunk of each word piece: that of the word it lies in. Both lists run from left to right."""
    chunk_ids = []
    place = 0
    for start, end in offsets:
        while place < len(words) and words[place].end <= start:
            place += 1
        inside = place < len(words) and words[place].start < end
        chunk_ids.append(words[place].chunk if inside else 0)
    return chunk_ids


def _kept_chunks(chunk_ids: Sequence[int], room: int, beyond: Set[int]) -> dict[int, int]:
    """New number of every chunk whose word pieces all lie among the first `room`, and that is not one of `beyond`."""
    whole = set(chunk_ids[:room]) - set(chunk_ids[room:]) - beyond - {0}
    return {chunk: number for number, chunk in enumerate(sorted(whole), start=1)}


def _weights(text: str, words: Sequence[ContentWord], number: Mapping[int, int], frequencies: Mapping[str, float]) -> Tensor:
    chunks = [[text[word.start : word.end] for word in words if word.chunk == chunk] for chunk in number]
    return torch.tensor([chunk_weight(chunk, frequencies) for chunk in chunks], dtype=torch.float32)
