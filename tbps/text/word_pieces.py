"""BERT word pieces: load a vocabulary, train a small one, turn text into ids.

Local files are read by the `tokenizers` library alone; transformers is imported only for a Hugging Face name.
"""

from __future__ import annotations

import functools
import json
import logging
import operator
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from tbps.text.pieces import Pieces

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_FILES = ("tokenizer.json", "vocab.txt")
_BERT_NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
_BERT_MODEL = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}
_REMEMBERED_WORDS = 65_536


class WordPieces:
    """Word pieces and their ids. Picklable.

    A caption starts with [CLS]. It ends with [SEP] where `ends` says so, not in the official code of ALBEF and its
    relatives. Raises ValueError where one of the five BERT special tokens is missing or [PAD] is not entry 0.
    """

    def __init__(self, tokenizer: Tokenizer, *, name: str, ends: bool = False) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.name = name
        self._tokenizer = tokenizer
        # BERT cuts at spaces first, so that a word has the same pieces in every text; other tokenizers need not.
        self._word_by_word = isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        self._seen: dict[str, Pieces] = {}
        ids = tokenizer.get_vocab(with_added_tokens=True)
        missing = [token for token in SPECIAL_TOKENS if token not in ids]
        if missing:
            raise ValueError(f"vocabulary {name} has no entry {missing[0]}, expected {', '.join(SPECIAL_TOKENS)} as in BERT")
        self.pad_id, self.unk_id, self.start_id, self.sep_id, mask_id = (ids[token] for token in SPECIAL_TOKENS)
        self.mask_id: int | None = mask_id
        self.end_id: int | None = self.sep_id if ends else None
        if self.pad_id != 0:
            raise ValueError(
                f"vocabulary {name} has [PAD] as entry {self.pad_id}, expected entry 0, the row that BERT's embedding keeps"
                " for padding; choose another vocabulary"
            )

    @property
    def size(self) -> int:
        """Number of entries, added tokens included."""
        return self._tokenizer.get_vocab_size()

    @property
    def special_ids(self) -> tuple[int, ...]:
        """[PAD], [CLS], [SEP] and [MASK]. [UNK] stands for a word."""
        assert self.mask_id is not None, "every BERT vocabulary has [MASK]"
        return self.pad_id, self.start_id, self.sep_id, self.mask_id

    @property
    def random_ids(self) -> tuple[int, int]:
        """All entries, as in the official code of RaSa."""
        return 0, self.size

    def is_word(self, token_ids: Tensor) -> Tensor:
        """Where ids stand for a piece of a text."""
        special = [token_ids == token_id for token_id in self.special_ids]
        return ~functools.reduce(operator.or_, special)

    def starts_words(self, token_ids: Sequence[int]) -> list[bool]:
        """Which of consecutive pieces begin a word: the first, and all but "##..."."""
        return [place == 0 or not self.word_of(token_id).startswith("##") for place, token_id in enumerate(token_ids)]

    def encode(self, text: str) -> Pieces:
        """Word pieces of one text. Words are remembered: captions have few different ones, and a look-up is 10 x faster."""
        if not self._word_by_word:
            return self._encode_whole(text)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        first = 0
        for word in text.split(" "):
            pieces = self._seen.get(word) or self._remember(word)
            ids += pieces.ids
            offsets += [(first + start, first + end) for start, end in pieces.offsets]
            first += len(word) + 1
        return Pieces(ids=ids, offsets=offsets)

    def _remember(self, word: str) -> Pieces:
        pieces = self._encode_whole(word)
        if len(self._seen) < _REMEMBERED_WORDS:
            self._seen[word] = pieces
        return pieces

    def _encode_whole(self, text: str) -> Pieces:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return Pieces(ids=encoding.ids, offsets=encoding.offsets)

    def encode_batch(self, texts: Sequence[str]) -> list[Pieces]:
        """Word pieces of several texts.

        One after the other: the library's own threads warn, and are switched off, in every process forked afterwards.
        """
        return [self.encode(text) for text in texts]

    def id_of(self, word: str) -> int | None:
        """The id of an entry ("##ing" is an entry too), or None."""
        return self._tokenizer.token_to_id(word)

    def word_of(self, token_id: int) -> str:
        """The entry with this id; raises IndexError outside the vocabulary."""
        word = self._tokenizer.id_to_token(token_id)
        if word is None:
            raise IndexError(f"vocabulary {self.name} has no entry {token_id}, expected 0 to {self.size - 1}")
        return word

    def words(self) -> list[str]:
        """All entries in the order of their ids."""
        return [self.word_of(token_id) for token_id in range(self.size)]

    @property
    def cuts_as_bert(self) -> bool:
        """Whether its pieces are BERT's: in lower case, without accents, cut at spaces and punctuation, then the longest."""
        told = json.loads(self.to_json())
        normalizer, model = told["normalizer"] or {}, told["model"]
        return (
            {name: normalizer.get(name) for name in _BERT_NORMALIZER} == _BERT_NORMALIZER
            and normalizer.get("strip_accents") in (None, True)
            and self._word_by_word
            and {name: model.get(name) for name in _BERT_MODEL} == _BERT_MODEL
        )

    def to_json(self) -> str:
        """The tokenizers library's own form."""
        return self._tokenizer.to_str()

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of ids, special tokens left out."""
        pieces = [self.word_of(token_id) for token_id in token_ids if token_id not in self.special_ids]
        return "".join(piece[2:] if piece.startswith("##") else f" {piece}" for piece in pieces).strip()


def open_word_pieces(vocabulary: str, *, ends: bool = False) -> WordPieces:
    """Open a vocabulary: `vocab.txt`, `tokenizer.json`, a folder with one of them, or a Hugging Face name.

    ends: captions end with [SEP].
    Raises ValueError where it cannot be found or read.
    """
    path = Path(vocabulary).expanduser()
    if path.exists():
        tokenizer = _local_tokenizer(path)
    elif path.is_absolute() or path.suffix in (".txt", ".json") or vocabulary.startswith((".", "~")):
        raise ValueError(
            f"vocabulary {vocabulary} does not exist; give a vocab.txt, a tokenizer.json or a Hugging Face name"
        )
    else:
        tokenizer = _named_tokenizer(vocabulary)
    return WordPieces(tokenizer, name=vocabulary, ends=ends)


def train_vocabulary(captions: Iterable[str], *, size: int, path: Path) -> WordPieces:
    """Learn at most `size` word pieces from cleaned captions and write them to `path`, one a line.

    The same captions give the same file: the trainer numbers single characters in the order of a hash table, which
    changes which of two equally frequent pairs is merged first, so the characters are given to it in sorted order.
    Raises ValueError where there is no word, or `size` cannot hold the characters.
    """
    captions = list(captions)
    tokenizer = _wordpiece(models.WordPiece(unk_token="[UNK]"))
    characters = _characters(captions, tokenizer)
    if not characters:
        raise ValueError(
            f"no word in {len(captions)} captions, expected at least one to train a vocabulary on; check the data"
        )
    start = [*SPECIAL_TOKENS, *characters]
    if size < len(start):
        raise ValueError(
            f"vocabulary size is {size}, expected at least {len(start)}: {len(SPECIAL_TOKENS)} special tokens and"
            f" {len(characters)} characters"
        )
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=start, show_progress=False)
    tokenizer.train_from_iterator(captions, trainer)
    entries = tokenizer.get_vocab()
    if len(entries) < size:
        logger.info("the captions hold only %d word pieces, fewer than the %d asked for", len(entries), size)
    _write("\n".join(sorted(entries, key=entries.__getitem__)) + "\n", path)
    return open_word_pieces(str(path))


def _characters(captions: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    initial: set[str] = set()
    continuing: set[str] = set()
    for caption in captions:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(caption)):
            initial.update(word)
            continuing.update(word[1:])
    return sorted(initial) + [f"##{character}" for character in sorted(continuing)]


def _wordpiece(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _local_tokenizer(path: Path) -> Tokenizer:
    if path.is_dir():
        found = [path / name for name in _FILES if (path / name).is_file()]
        if not found:
            raise ValueError(
                f"vocabulary folder {path} has neither {_FILES[0]} nor {_FILES[1]}; give a folder with one of them"
            )
        path = found[0]
    if path.suffix == ".json":
        return _json_tokenizer(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"vocabulary {path} is not UTF-8 text ({error.reason}), expected one word piece a line") from error
    while lines and not lines[-1].strip():
        lines.pop()
    entries = {line.rstrip(): number for number, line in enumerate(lines)}
    if not lines or len(entries) != len(lines):
        raise ValueError(
            f"vocabulary {path} has {len(lines)} lines but {len(entries)} different entries, expected one different word"
            " piece a line; use the vocab.txt of the pretrained text encoder or train a new one"
        )
    return _wordpiece(models.WordPiece(entries, unk_token="[UNK]"))


def _json_tokenizer(path: Path) -> Tokenizer:
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        return Tokenizer.from_str(text)
    # The library raises a bare Exception for JSON that is no tokenizer.
    except Exception as error:
        raise ValueError(
            f"vocabulary {path} is not a tokenizer ({_first_line(error)}), expected the tokenizer.json of a fast tokenizer;"
            " save it again or give a vocab.txt"
        ) from error


def _named_tokenizer(name: str) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, use_fast=True).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"vocabulary {name} is no local file or folder, and could not be loaded as a Hugging Face tokenizer"
            f" ({_first_line(error)}); check the name, download it first where there is a network, or give a vocab.txt"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _write(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
