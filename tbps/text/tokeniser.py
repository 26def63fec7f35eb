"""What turns a text into token ids, and which one a run asks for.

Everything that depends on the kind of token belongs to a tokeniser: who starts and ends a caption, what stands for a masked
word, what fills a row of a batch, which ids are words. Members: `WordPieces` (BERT), `ClipTokens` (CLIP), and whatever a
method brings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from tbps.config.consistency import check_captioning
from tbps.config.data import Captioning
from tbps.config.needs import Text
from tbps.text.clip_tokens import ClipTokens
from tbps.text.pieces import Pieces
from tbps.text.word_pieces import open_word_pieces

if TYPE_CHECKING:
    from torch import Tensor


class Tokeniser(Protocol):
    """Turns a text into token ids and back. Picklable."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def size(self) -> int:
        """Number of different ids: they are 0 to size - 1."""

    @property
    def start_id(self) -> int:
        """The first token of each caption."""

    @property
    def end_id(self) -> int | None:
        """The last token of each caption, also of one that was cut; None where captions have none."""

    @property
    def mask_id(self) -> int | None:
        """What stands for a masked word; None where there is no such token."""

    @property
    def pad_id(self) -> int:
        """What fills the rest of a row in a batch. It may be a word too: lengths say where a caption ends."""

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that stand for no piece of a text."""

    @property
    def random_ids(self) -> tuple[int, int]:
        """First id, and one past the last, of those that a random word is drawn from."""

    def encode(self, text: str) -> Pieces:
        """Pieces of one text, without start and end."""

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of ids, special tokens left out."""

    def word_of(self, token_id: int) -> str:
        """The piece with this id, to be shown; IndexError outside the vocabulary."""

    def is_word(self, token_ids: Tensor) -> Tensor:
        """Where ids stand for a piece of a text, so that they may be masked; bool of the same shape.

        Of padding too, where that is a word: lengths tell."""

    def starts_words(self, token_ids: Sequence[int]) -> list[bool]:
        """Which of consecutive pieces of one text begin a word; the first does."""


def open_tokeniser(captioning: Captioning, text: Text, module: ModuleType | None = None) -> Tokeniser:
    """The tokeniser that a method's text encoder asks for (`Needs.text`), checked against it.

    module: the method's own, whose `open_tokeniser(captioning)` is called where the method brings its own. ValueError: it
    cannot be opened, or has another size, start or mask token than the encoder, or captions may be longer than it reads.
    """
    check_captioning(captioning, text)
    if text.tokeniser == "bert":
        opened: Tokeniser = open_word_pieces(captioning.vocabulary, ends=text.ends)
    elif text.tokeniser == "clip":
        opened = ClipTokens(with_mask=text.mask_id is not None)
    else:
        opened = _own_tokeniser(captioning, module)
    _check_ids(opened, text)
    return opened


def _own_tokeniser(captioning: Captioning, module: ModuleType | None) -> Tokeniser:
    opener = getattr(module, "open_tokeniser", None)
    if opener is None:
        name = "its module" if module is None else module.__name__
        raise ValueError(
            f'the method\'s needs name a tokeniser of its own (text.tokeniser "own"), but {name} has no function'
            " open_tokeniser(captioning), which opens it; add it"
        )
    return cast(Tokeniser, opener(captioning))


def _check_ids(opened: Tokeniser, text: Text) -> None:
    if opened.size != text.size:
        raise ValueError(
            f"vocabulary {opened.name} has {opened.size} entries but the text encoder was built for {text.size}; choose the"
            f" vocabulary the weights were trained with, or set the size in {text.settings} to {opened.size}"
        )
    for name, found, expected in (
        ("first token", opened.start_id, text.start_id),
        ("token for a masked word", opened.mask_id, text.mask_id),
    ):
        if expected is not None and found != expected:
            raise ValueError(
                f"vocabulary {opened.name} has {found} as the {name}, but the text encoder expects {expected}; choose the"
                f" vocabulary the weights were trained with, or set the id in {text.settings} to {found}"
            )
