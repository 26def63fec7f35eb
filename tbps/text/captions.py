"""From a caption as annotated to token ids with attribute chunks, and to a padded batch."""

# B captions, L tokens of the longest, C chunks

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tbps.config.data import Cleaning
from tbps.text.chunks import Chunker, ContentWord, chunk_weight
from tbps.text.cleaning import clean_caption
from tbps.text.token_batch import Captions, pad_rows
from tbps.text.tokeniser import Tokeniser
from tbps.text.vacuous_words import VACUOUS_WORDS

_SIDE = re.compile(r"\b(?:left|right)(?:s|most|side|ward|wards|hand|handed)?\b")
_PAD_MULTIPLE = 8


def says_side(caption: str) -> bool:
    """Whether a caption as annotated tells left from right, so that it is wrong of the mirrored image."""
    return _SIDE.search(caption.lower()) is not None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedCaption:
    """One caption as ids: the tokeniser's start token, pieces, and its end token where it has one."""

    token_ids: Tensor
    """(T,) int64."""
    pad_id: int
    """What fills the rest of its row in a batch."""
    chunk_ids: Tensor
    """(T,) int64: 0 = in no attribute chunk, c >= 1 = in chunk c, counted from the left without gaps."""
    chunk_weights: Tensor | None = None
    """(chunks,) float32: weight of chunk c at c - 1 (MARS Eq. 14), where the encoder was given word frequencies."""
    starts: Tensor | None = None
    """(T,) bool: pieces that begin a word, and special tokens; see `with_word_starts`."""
    vacuous: Tensor | None = None
    """(T,) bool: pieces of semantically vacuous words, where the encoder was asked to mark them."""
    num_dropped_chunks: int = 0
    """Chunks left out because not all of their tokens fit."""
    num_dropped_tokens: int = 0
    """Pieces beyond the cap."""
    num_dropped_words: int = 0
    """Words beyond their cap; they were cut before the caption was made into pieces."""

    @property
    def is_cut(self) -> bool:
        """Whether a part of the caption was left out."""
        return bool(self.num_dropped_tokens or self.num_dropped_words)

    @property
    def num_chunks(self) -> int:
        """Chunks that were kept."""
        return int(self.chunk_ids.max())


class CaptionEncoder:
    """Cleans captions, cuts them into tokens and marks their attribute chunks. Picklable.

    `max_words` words of the cleaned caption are kept (0 = all), then `max_tokens` tokens, start and end included: a caption
    that is cut keeps its end token. A chunk that does not fit whole is dropped and counted. `chunker` is asked about all
    words of the caption, so that what it found can be kept for any cap (`KeptChunks`: finding is slow); without it there
    are no chunks. With `frequencies` (`chunk_frequencies`) every chunk gets its weight; with `mark_vacuous` pieces of
    semantically vacuous words are marked.
    """

    def __init__(
        self,
        tokeniser: Tokeniser,
        *,
        max_words: int,
        max_tokens: int,
        cleaning: Cleaning,
        chunker: Chunker | None,
        frequencies: Mapping[str, float] | None = None,
        mark_vacuous: bool = False,
    ) -> None:
        self._frame = 1 if tokeniser.end_id is None else 2
        if max_words < 0:
            raise ValueError(f"max_words is {max_words}, expected at least 1, or 0 for all words")
        if max_tokens < 1 + self._frame:
            frame = "the start token" if tokeniser.end_id is None else "the start token, the end token"
            raise ValueError(f"max_tokens is {max_tokens}, expected at least {1 + self._frame}: {frame} and one piece")
        self.tokeniser = tokeniser
        self.max_words = max_words
        self.max_tokens = max_tokens
        self.cleaning: Cleaning = cleaning
        self.chunker = chunker
        self.frequencies = None if frequencies is None else dict(frequencies)
        self.mark_vacuous = mark_vacuous

    def clean(self, caption: str) -> str:
        """The text that is encoded."""
        return " ".join(self._words(caption)[: self._last_word])

    def encode(self, caption: str, key: str) -> EncodedCaption:
        """Ids and chunks of one caption; `key` names its pair in messages.

        Raises ValueError where no piece is left after cleaning.
        """
        every_word = self._words(caption)
        kept_words = every_word[: self._last_word]
        text, dropped_words = " ".join(kept_words), len(every_word) - len(kept_words)
        pieces = self.tokeniser.encode(text)
        if not pieces.ids:
            raise ValueError(
                f"pair {key}: its caption {caption[:80]!r} has no word left after cleaning, expected at least one;"
                " correct the caption or remove the pair"
            )
        room = self.max_tokens - self._frame
        end = [] if self.tokeniser.end_id is None else [self.tokeniser.end_id]
        token_ids = _int64([self.tokeniser.start_id, *pieces.ids[:room], *end])
        dropped = max(0, len(pieces.ids) - room)
        vacuous = self._vacuous(text, pieces.offsets[:room]) if self.mark_vacuous else None
        if self.chunker is None:
            return EncodedCaption(
                token_ids=token_ids,
                pad_id=self.tokeniser.pad_id,
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
            pad_id=self.tokeniser.pad_id,
            chunk_ids=_int64([0, *(number.get(chunk, 0) for chunk in chunk_ids[:room]), *[0] * len(end)]),
            chunk_weights=None if self.frequencies is None else _weights(text, words, number, self.frequencies),
            vacuous=vacuous,
            num_dropped_chunks=len({word.chunk for word in words} - {0}) - len(number),
            num_dropped_tokens=dropped,
            num_dropped_words=dropped_words,
        )

    @property
    def _last_word(self) -> int | None:
        return self.max_words or None

    def _words(self, caption: str) -> list[str]:
        return clean_caption(caption, cleaning=self.cleaning).split()

    def _vacuous(self, text: str, offsets: Sequence[tuple[int, int]]) -> Tensor:
        return torch.tensor([False, *_is_vacuous(text, offsets), *[False] * (self._frame - 1)])

    def encode_many(self, captions: Sequence[str], keys: Sequence[str]) -> list[EncodedCaption]:
        """`encode` of each caption with its key, in order."""
        return [self.encode(caption, key) for caption, key in zip(captions, keys, strict=True)]


def with_word_starts(caption: EncodedCaption, tokeniser: Tokeniser) -> EncodedCaption:
    """The same caption with its word starts marked."""
    ids = caption.token_ids.tolist()
    last = len(ids) if tokeniser.end_id is None else len(ids) - 1
    starts = [True, *tokeniser.starts_words(ids[1:last]), *[True] * (len(ids) - last)]
    return replace(caption, starts=torch.tensor(starts))


def make_captions(encoded: Sequence[EncodedCaption]) -> Captions:
    """Stack B captions of one encoder, padded to the longest, rounded up to a multiple of 8. B >= 1."""
    lengths = tuple(len(caption.token_ids) for caption in encoded)
    padded = -(-max(lengths) // _PAD_MULTIPLE) * _PAD_MULTIPLE
    weights = [caption.chunk_weights for caption in encoded if caption.chunk_weights is not None]
    starts = [caption.starts for caption in encoded if caption.starts is not None]
    vacuous = [caption.vacuous for caption in encoded if caption.vacuous is not None]
    assert len(weights) in (0, len(encoded)), "captions with and without chunk weights come from different encoders"
    assert len(vacuous) in (0, len(encoded)), "captions with and without marked words come from different encoders"
    return Captions(
        token_ids_BL=pad_rows([caption.token_ids for caption in encoded], length=padded, value=encoded[0].pad_id),
        lengths=lengths,
        chunk_id_BL=pad_rows([caption.chunk_ids for caption in encoded], length=padded),
        chunk_weight_BC=pad_rows(weights, length=max(map(len, weights))) if weights else None,
        starts_BL=pad_rows(starts, length=padded, value=True) if starts else None,
        vacuous_BL=pad_rows(vacuous, length=padded) if vacuous else None,
    )


def _int64(values: list[int]) -> Tensor:
    # Several times faster than torch.tensor on a list.
    return torch.from_numpy(np.array(values, dtype=np.int64))


def _is_vacuous(text: str, offsets: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each piece lies in a vacuous word, whatever punctuation the word is in."""
    spans = []
    place = 0
    for word in text.split(" "):
        spans.append((place + len(word), word.strip(string.punctuation).lower() in VACUOUS_WORDS))
        place += len(word) + 1
    found, index = [], 0
    for _, end in offsets:
        while spans[index][0] < end:
            index += 1
        found.append(spans[index][1])
    return found


def _chunk_of_pieces(words: Sequence[ContentWord], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The chunk of each piece: that of the word it lies in. Both lists run from left to right."""
    chunk_ids = []
    place = 0
    for start, end in offsets:
        while place < len(words) and words[place].end <= start:
            place += 1
        inside = place < len(words) and words[place].start < end
        chunk_ids.append(words[place].chunk if inside else 0)
    return chunk_ids


def _kept_chunks(chunk_ids: Sequence[int], room: int, beyond: Set[int]) -> dict[int, int]:
    """New number of every chunk whose pieces all lie among the first `room`, and that is not one of `beyond`."""
    whole = set(chunk_ids[:room]) - set(chunk_ids[room:]) - beyond - {0}
    return {chunk: number for number, chunk in enumerate(sorted(whole), start=1)}


def _weights(text: str, words: Sequence[ContentWord], number: Mapping[int, int], frequencies: Mapping[str, float]) -> Tensor:
    chunks = [[text[word.start : word.end] for word in words if word.chunk == chunk] for chunk in number]
    return torch.tensor([chunk_weight(chunk, frequencies) for chunk in chunks], dtype=torch.float32)
