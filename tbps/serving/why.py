"""Why a picture was found: what each word of a sentence adds to its score, and which parts of the picture answer the word.

What a word adds is the score of the sentence minus the score of the sentence without it: the matcher's, where the method has
one, else the similarity of the features. Where the matcher is a cross encoder, a word's parts of the picture are its weights
over the patches in the middle cross layer: the attention of the word's tokens, times by how much the score would gain from
more of it (as LAIP weighs patches, Eq. 7, with each word in place of a masked phrase).

Shapes: W words, L tokens, P image tokens, H heads, d head width; grid of patches h w.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps.data.images import resize_exactly
from tbps.evaluation.rerank import rerank_scores
from tbps.methods.method import ExplainingMatcher
from tbps.search.model import SearchModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A word that the method reads."""

    text: str
    adds: float | None
    """To the score; None of a sentence's only word."""
    map_hw: NDArray[np.float32] | None
    """(h, w), 0 to 1 where the word looks most; None where the method has no cross encoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """The words of a sentence over a picture."""

    kind: str
    """Of score: "matching" or "similarity"."""
    score: float
    words: tuple[Word, ...]
    num_unread: int
    """Words at the end that are not read."""

    def as_json(self) -> dict[str, Any]:
        """What a page draws."""
        words = [
            {
                "word": word.text,
                "adds": None if word.adds is None else round(word.adds, 5),
                "map": None if word.map_hw is None else np.round(word.map_hw, 3).tolist(),
            }
            for word in self.words
        ]
        return {"kind": self.kind, "score": round(self.score, 5), "words": words, "unread": self.num_unread}


def explain(model: SearchModel, pixels_HWC: NDArray[np.uint8], sentence: str) -> Why:
    """Of an upright picture and a sentence. ValueError: it cannot be read."""
    spans = _words(model, sentence)
    if not spans:
        raise ValueError(f"the sentence {sentence[:80]!r} has no word, expected at least one")
    pixels_CHW = resize_exactly(pixels_HWC, image_px=model.image_px, interpolation=model.pixels.interpolation)
    words = [word for word, _ in spans]
    text = " ".join(words)
    without = [" ".join(words[:place] + words[place + 1 :]) for place in range(len(words))] if len(words) > 1 else []
    scores = _scores(model, pixels_CHW, [text, *without])
    maps = _maps(model, pixels_CHW, text, [tokens for _, tokens in spans])
    told = [
        Word(
            text=word, adds=scores[0] - scores[1 + place] if without else None, map_hw=None if maps is None else maps[place]
        )
        for place, word in enumerate(words)
    ]
    kind = "similarity" if model.matcher is None else "matching"
    unread = len(sentence.split()) - len(words)
    return Why(kind=kind, score=scores[0], words=tuple(told), num_unread=max(0, unread))


def _words(model: SearchModel, sentence: str) -> list[tuple[str, list[int]]]:
    """Words of the cleaned sentence that are read, each with the positions of its tokens."""
    text = model.encoder.clean(sentence)
    pieces = model.encoder.tokeniser.encode(text)
    if not pieces.ids:
        return []
    end = 0 if model.encoder.tokeniser.end_id is None else 1
    kept = len(model.encoder.encode(text, "the sentence").token_ids) - 1 - end
    found, start = list[tuple[str, list[int]]](), 0
    for word in text.split():
        start = text.index(word, start)
        tokens = [1 + place for place, (first, _) in enumerate(pieces.offsets[:kept]) if start <= first < start + len(word)]
        if tokens:
            found.append((word, tokens))
        start += len(word)
    return found


def _scores(model: SearchModel, pixels_CHW: Tensor, sentences: list[str]) -> list[float]:
    """Of the picture with each sentence."""
    read, seen = model.embed_sentences(sentences), model.embed_pixels(pixels_CHW[None])
    if model.matcher is None:
        return (read.embedded.feature_QE.float() @ seen.feature_IE[0].float()).tolist()
    assert seen.tokens_IPD is not None, "a method with a matcher gives what it reads"
    rows = torch.arange(len(sentences))
    with model.computing():
        scores = rerank_scores(
            model.matcher, seen.tokens_IPD, read.captions, read.embedded.hidden_ND, torch.zeros_like(rows), rows
        )
    return scores.tolist()


def _maps(model: SearchModel, pixels_CHW: Tensor, text: str, words: list[list[int]]) -> list[NDArray[np.float32]] | None:
    """(h, w) of each word, given by the positions of its tokens."""
    matcher = model.matcher
    if not isinstance(matcher, ExplainingMatcher):
        return None
    tokens_IPD = model.embed_pixels(pixels_CHW[None]).tokens_IPD
    assert tokens_IPD is not None
    grid = grid_of(tokens_IPD.shape[1], model.image_px)
    if grid is None:
        return None
    read = model.embed_sentences([text])
    with model.computing():
        weights, _ = matcher.token_weights(read.captions, read.embedded.hidden_ND, tokens_IPD)
    weight_LP = weights.cpu().numpy()
    first, height, width = grid
    maps = [weight_LP[tokens, first:].mean(0).reshape(height, width) for tokens in words]
    return [map_hw / max(float(map_hw.max()), 1e-12) for map_hw in maps]


def grid_of(num_tokens: int, image_px: tuple[int, int]) -> tuple[int, int, int] | None:
    """Tokens before the first patch (0 or 1), rows and columns of square patches; None where there is no such grid.

    Example: 193 tokens of 384 x 128 pixels are [CLS] and 24 x 8 patches.
    """
    height_px, width_px = image_px
    for first in (1, 0):
        patches = num_tokens - first
        rows = math.isqrt(patches * height_px // width_px)
        if rows and patches % rows == 0 and rows * width_px == patches // rows * height_px:
            return first, rows, patches // rows
    return None
