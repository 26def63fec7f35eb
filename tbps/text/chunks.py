"""Attribute chunks of captions: nouns with their adjectives, as "white long shirt" (MARS, Sec. 3.3).

The rule (official code): of a noun chunk, collect the words tagged NOUN or ADJ (neither PROPN nor determiners); keep it if
more than one word was collected and at least one of them is an adjective. Differs: the official code parses word pieces
joined by spaces, padding included; we parse the words of the cleaned caption.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from tbps.text import chunk_lexicon

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.matcher import Matcher
    from spacy.tokens import Doc, Span

SPACY_MODEL = "en_core_web_sm"
"""The pipeline of the official code."""


class ContentWord(NamedTuple):
    """A noun or adjective of a caption."""

    start: int
    """Its first character in the caption."""
    end: int
    """One past its last character."""
    chunk: int
    """0 = in no chunk, c >= 1 = in chunk c, counted from the left."""


class Chunker(Protocol):
    """Finds the nouns and adjectives of cleaned captions and their chunks. Picklable."""

    @property
    def name(self) -> str:
        """Who finds the chunks, with its version: one name, one result. Runs and kept chunks are known by it."""

    def words(self, captions: Iterable[str]) -> Iterator[tuple[ContentWord, ...]]:
        """Nouns and adjectives of each caption, from left to right."""


ChunkerKind = Literal["auto", "spacy", "builtin"]


def make_chunker(kind: ChunkerKind) -> Chunker:
    """The chunker of this name; `auto` is spaCy's where its English model is installed, else the built-in one.

    Raises ValueError for `spacy` without the model.
    """
    if kind == "spacy":
        return SpacyChunker()
    if kind == "builtin":
        return BuiltinChunker()
    return SpacyChunker() if importlib.util.find_spec(SPACY_MODEL) else BuiltinChunker()


def content_words(doc: Doc, noun_chunks: Iterable[Span]) -> tuple[ContentWord, ...]:
    """The rule at the head of this file, for a tagged document and its noun chunks."""
    chunk_of: dict[int, int] = {}
    number = 0
    for chunk in noun_chunks:
        collected = [token for token in chunk if token.pos_ in ("NOUN", "ADJ")]
        if len(collected) > 1 and any(token.pos_ == "ADJ" for token in collected):
            number += 1
            chunk_of.update((token.i, number) for token in collected)
    return tuple(
        ContentWord(token.idx, token.idx + len(token), chunk_of.get(token.i, 0))
        for token in doc
        if token.pos_ in ("NOUN", "ADJ")
    )


def chunk_spans(words: Iterable[ContentWord]) -> list[list[tuple[int, int]]]:
    """Per chunk, the (start, end) characters of its words."""
    in_chunks = sorted((word for word in words if word.chunk), key=lambda word: (word.chunk, word.start))
    return [
        [(word.start, word.end) for word in chunk] for _, chunk in itertools.groupby(in_chunks, key=lambda word: word.chunk)
    ]


class SpacyChunker:
    """Noun chunks of a spaCy pipeline, which is loaded at its first caption.

    Raises ValueError where the model is not installed.
    """

    def __init__(self, model: str = SPACY_MODEL) -> None:
        if importlib.util.find_spec(model) is None:
            raise ValueError(
                f'spaCy model {model} is not installed on {platform.node()}, expected for chunker "spacy";'
                f' run "python -m spacy download {model}" there'
                ' or choose chunker "builtin"'
            )
        self.model = model
        self._pipeline: Language | None = None

    @property
    def name(self) -> str:
        """Model with its version and spaCy's."""
        return f"{self.model} {importlib.metadata.version(self.model)}, spacy {_spacy_version()}"

    def words(self, captions: Iterable[str]) -> Iterator[tuple[ContentWord, ...]]:
        """Nouns and adjectives of each caption; some milliseconds a caption."""
        if self._pipeline is None:
            import spacy

            self._pipeline = spacy.load(self.model, exclude=["ner", "lemmatizer"])
        for doc in self._pipeline.pipe(captions, batch_size=256):
            yield content_words(doc, doc.noun_chunks)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "_pipeline": None}


def _spacy_version() -> str:
    """Major and minor: a patch does not change how lower-case words are split."""
    return ".".join(importlib.metadata.version("spacy").split(".")[:2])


class BuiltinChunker:
    """Chunks without a trained model: spaCy's English tokenizer, our lexicon, and a matcher over the words' roles.

    For the language of pedestrian descriptions; it knows no grammar, so a predicate ("her hair is long") forms no chunk
    and "black and white shoes" one.
    """

    def __init__(self) -> None:
        self._loaded: tuple[Language, Matcher] | None = None

    @property
    def name(self) -> str:
        """Version of the lexicon and of spaCy, whose tokenizer splits the words."""
        return f"builtin {chunk_lexicon.VERSION}, spacy {_spacy_version()}"

    def words(self, captions: Iterable[str]) -> Iterator[tuple[ContentWord, ...]]:
        """Nouns and adjectives of each lower-case caption."""
        pipeline, matcher = self._load()
        for caption in captions:
            doc = pipeline.make_doc(caption)
            _tag(doc)
            # The matcher refuses a document without tags, which an empty one is.
            spans = matcher(doc, as_spans=True) if len(doc) else []
            yield content_words(doc, sorted(spans, key=lambda span: span.start))

    def _load(self) -> tuple[Language, Matcher]:
        if self._loaded is None:
            import spacy
            from spacy.matcher import Matcher

            pipeline = spacy.blank("en")
            role = chunk_lexicon.Role
            before = {"TAG": {"IN": [role.ADJECTIVE, role.MODIFIER, role.JOINT]}, "OP": "*"}
            nouns = {"TAG": {"IN": [role.NOUN, role.MODIFIER]}, "OP": "+"}
            matcher = Matcher(pipeline.vocab)
            matcher.add("noun chunk", [[before, nouns]], greedy="LONGEST")
            self._loaded = pipeline, matcher
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {"_loaded": None}


_PART_OF_SPEECH = {
    chunk_lexicon.Role.ADJECTIVE: "ADJ",
    chunk_lexicon.Role.NOUN: "NOUN",
    chunk_lexicon.Role.MODIFIER: "NOUN",
    chunk_lexicon.Role.JOINT: "X",
    chunk_lexicon.Role.NONE: "X",
}


def _tag(doc: Doc) -> None:
    for token, role in zip(doc, chunk_lexicon.roles_of([token.lower_ for token in doc])):
        token.tag_ = role.value
        token.pos_ = _PART_OF_SPEECH[role]


def chunk_frequencies(counts: Mapping[str, int], top: int = 25) -> dict[str, float]:
    """alpha_w of MARS Eq. 14: the `top` most common nouns and adjectives of cleaned captions, the first with 1.

    `counts` are of words as they are written (`KeptChunks.counts`); of equally frequent words the alphabetically first come
    first. A word that is not in the result has alpha 0. The paper does not say how counts become [0, 1]; ours: divided by
    the largest.
    """
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]
    return {word: count / common[0][1] for word, count in common}


def chunk_weight(words: Sequence[str], frequencies: Mapping[str, float]) -> float:
    """omega_ch = 1 - sum_w alpha_w / N_w over the words of one chunk (MARS Eq. 14); alpha from `chunk_frequencies`."""
    return 1.0 - sum(frequencies.get(word, 0.0) for word in words) / len(words)
