"""The method's own tokeniser: letters, digits and spaces (a `tbps.text.tokeniser.Tokeniser`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from tbps.text.pieces import Pieces

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 "


class Letters:
    """One token a letter; others are left out. Picklable, so that loader workers can have it."""

    name = "letters"
    start_id, mask_id, pad_id = 37, 38, 39
    end_id = None
    size = 40
    special_ids = (37, 38, 39)
    random_ids = (0, 37)

    def encode(self, text: str) -> Pieces:
        """Letters that are in the alphabet."""
        kept = [(place, ALPHABET.index(letter)) for place, letter in enumerate(text) if letter in ALPHABET]
        return Pieces(ids=[number for _, number in kept], offsets=[(place, place + 1) for place, _ in kept])

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of ids, special tokens left out."""
        return "".join(self.word_of(one) for one in token_ids if one < self.start_id)

    def word_of(self, token_id: int) -> str:
        """The letter, or what stands for a special token."""
        return [*ALPHABET, "[START]", "[MASK]", "[PAD]"][token_id]

    def is_word(self, token_ids: Tensor) -> Tensor:
        """Where ids are letters."""
        return token_ids < self.start_id

    def starts_words(self, token_ids: Sequence[int]) -> list[bool]:
        """Which letters follow a space, or nothing."""
        return [place == 0 or token_ids[place - 1] == ALPHABET.index(" ") for place in range(len(token_ids))]
