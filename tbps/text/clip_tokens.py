"""CLIP's byte pairs, by the tokeniser and the merges that open_clip brings.

A caption is repaired (broken encodings, HTML), its white space squeezed, and put in lower case; that is a part of CLIP,
whatever rule cleaned the caption before. open_clip's file is read when a tokeniser is made.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbps.config.consistency import CLIP_VOCABULARY
from tbps.text.pieces import Pieces

if TYPE_CHECKING:
    from torch import Tensor

MASK = "<|mask|>"
"""How IRRA calls the token that stands for a masked word."""
_END_OF_WORD = "</w>"
_REMEMBERED_WORDS = 65_536


class ClipTokens:
    """CLIP's vocabulary. Picklable.

    with_mask: the last word of the vocabulary ("jekyll", id 49405) is given up and its id stands for a masked word, as in
    IRRA, so that start and end keep the ids of pretrained weights. A caption with that word has the two pieces that the last
    merge would have joined; the official code fails on it.
    """

    name = CLIP_VOCABULARY
    pad_id = 0
    """As in open_clip. It is also "!", so that padding is known by the captions' lengths alone."""

    def __init__(self, *, with_mask: bool) -> None:
        self.with_mask = with_mask
        self._bpe = _open_clip()
        self.size: int = self._bpe.vocab_size
        self.start_id: int = self._bpe.sot_token_id
        self.end_id: int | None = self._bpe.eot_token_id
        self.mask_id = self.start_id - 1 if with_mask else None
        self._last_pair: tuple[str, str] = next(reversed(self._bpe.bpe_ranks))
        self._last = "".join(self._last_pair)
        self._seen: dict[str, Pieces] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(ClipTokens, with_mask=self.with_mask), ()

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that stand for no piece of a text."""
        mask = () if self.mask_id is None else (self.mask_id,)
        return (*mask, self.start_id, self.size - 1)

    @property
    def random_ids(self) -> tuple[int, int]:
        """IRRA's range of random words: every piece but "!", which is padding there."""
        return 1, self.start_id if self.mask_id is None else self.mask_id

    def is_word(self, token_ids: Tensor) -> Tensor:
        """Where ids stand for a piece of a text: neither special nor "!", which cannot be told from padding (as IRRA)."""
        first, last = self.random_ids
        return (token_ids >= first) & (token_ids < last)

    def encode(self, text: str) -> Pieces:
        """Pieces of one text, as open_clip's; words are remembered.

        Offsets are those of the given text. Where it had to be repaired, a piece covers all of the characters that its own
        were made of.
        """
        clean = normalise(text)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        first = 0
        for word in clean.split(" ") if clean else ():
            pieces = self._seen.get(word) or self._remember(word)
            ids += pieces.ids
            offsets += [(first + start, first + end) for start, end in pieces.offsets]
            first += len(word) + 1
        return Pieces(ids=ids, offsets=_in_original(text, clean, offsets))

    def _remember(self, word: str) -> Pieces:
        pieces = self._encode_word(word)
        if len(self._seen) < _REMEMBERED_WORDS:
            self._seen[word] = pieces
        return pieces

    def _encode_word(self, word: str) -> Pieces:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for found in self._bpe.pat.finditer(word):
            # The character that each byte belongs to.
            owner = [found.start() + place for place, sign in enumerate(found[0]) for _ in sign.encode()]
            spelt = "".join(self._bpe.byte_encoder[byte] for byte in found[0].encode())
            first = 0
            for piece in self._pieces(spelt):
                after = first + len(piece.removesuffix(_END_OF_WORD))
                ids.append(self._bpe.encoder[piece])
                offsets.append((owner[first], owner[after - 1] + 1))
                first = after
        return Pieces(ids=ids, offsets=offsets)

    def _pieces(self, spelt: str) -> list[str]:
        pieces: list[str] = self._bpe.bpe(spelt).split(" ")
        if self.with_mask and self._last in pieces:
            place = pieces.index(self._last)
            pieces[place : place + 1] = self._last_pair
        return pieces

    def starts_words(self, token_ids: Sequence[int]) -> list[bool]:
        """Which of consecutive pieces begin a word."""
        ends = [self._bpe.decoder[token_id].endswith(_END_OF_WORD) for token_id in token_ids]
        return [True, *ends[:-1]] if ends else []

    def merges(self) -> list[tuple[str, str]]:
        """The pairs of pieces that are joined, the most urgent first, as open_clip writes bytes."""
        ranks: dict[tuple[str, str], int] = self._bpe.bpe_ranks
        return sorted(ranks, key=ranks.__getitem__)

    def id_of(self, word: str) -> int | None:
        """The id of an entry as open_clip writes it ("shirt</w>" ends a word, "shirt" does not), or None."""
        found = self._bpe.encoder.get(word)
        if self.with_mask and word in (MASK, self._last):
            return self.mask_id if word == MASK else None
        return None if found is None else int(found)

    def word_of(self, token_id: int) -> str:
        """The text of one piece; raises IndexError outside the vocabulary."""
        if token_id not in self._bpe.decoder:
            raise IndexError(f"vocabulary {self.name} has no entry {token_id}, expected 0 to {self.size - 1}")
        if token_id == self.mask_id:
            return MASK
        return self._text([token_id]).rstrip(" ")

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of ids, special tokens left out."""
        return self._text([token_id for token_id in token_ids if token_id not in self.special_ids]).rstrip(" ")

    def _text(self, token_ids: Sequence[int]) -> str:
        return str(self._bpe.decode(token_ids))


def normalise(text: str) -> str:
    """What open_clip makes of a text before it is cut: repaired, white space squeezed, in lower case."""
    if text.isascii() and text.isprintable() and "&" not in text:
        # Nothing to repair: most captions, and 20 x faster.
        return " ".join(text.split()).lower()
    return str(_open_clip().clean_fn(text))


def _in_original(text: str, clean: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets in `text` for those in `clean`, which was made of it."""
    if len(text) == len(clean) and text.lower() == clean:
        return offsets
    # For each character of the clean text, where the characters begin and end that it was made of. Word by word, so that
    # what was repaired in one moves nothing in another.
    made_of: list[tuple[int, int]] = []
    words, clean_words = [found.span() for found in re.finditer(r"\S+", text)], clean.split(" ")
    if len(words) != len(clean_words):
        words, clean_words = [(0, len(text))], [clean]
    for (first, last), clean_word in zip(words, clean_words, strict=True):
        made_of += [(first + start, first + end) for start, end in _origins(text[first:last], clean_word)]
        made_of.append((last, last))  # the space behind it, which is in no piece
    return [(made_of[start][0], made_of[end - 1][1]) for start, end in offsets]


def _origins(word: str, clean: str) -> Iterator[tuple[int, int]]:
    """Which characters of `word` each character of `clean` was made of: one, or all of a stretch that was repaired."""
    if len(word) == len(clean):
        yield from ((place, place + 1) for place in range(len(word)))
        return
    folded = "".join(sign.lower() if len(sign.lower()) == 1 else sign for sign in word)
    for _, first, last, start, end in difflib.SequenceMatcher(None, folded, clean, autojunk=False).get_opcodes():
        same = last - first == end - start
        yield from ((first + place, first + place + 1) if same else (first, last) for place in range(end - start))


@functools.cache
def _open_clip() -> Any:
    """open_clip's tokeniser, one for each process: some megabytes of tables, which its file makes when it is read.

    That file alone is read: the package would import torchvision, transformers and torch's compiler into every process:
    3.3 s and 220 MiB of each, or 1.7 s and 80 MiB where that compiler is there already.
    """
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            "open_clip is not installed, expected it for CLIP's byte pairs: pip install open_clip_torch"
        )
    file = Path(package.submodule_search_locations[0]) / "tokenizer.py"
    spec = importlib.util.spec_from_file_location("open_clip_tokenizer", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, "_tokenizer", None) or module.SimpleTokenizer()
