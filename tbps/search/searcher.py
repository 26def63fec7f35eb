"""Searching an index by sentences and pictures: what `tbps search` and a web server call.

    index = Index.open(Path("photos.index"))
    searcher = Searcher(index, tbps.load("runs/irra/cuhk-pedes"))
    found = searcher.search(Query.of("a woman in a red coat", minus=("a hat",)), top=20, filters=Filters(camera=("cam_a",)))
    found.hits[0].picture.name, found.hits[0].similarity, index.thumbnail(found.hits[0].picture.row)

Shapes: N rows, E features, K candidates, P image tokens, D width, S sentences.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps.data.images import resize_exactly
from tbps.evaluation.rerank import rerank_scores
from tbps.methods.method import Matcher
from tbps.search.approximate import Approximate
from tbps.search.exact import best_rows
from tbps.search.index import Index, Picture
from tbps.search.model import SearchModel
from tbps.search.pictures import Pictures
from tbps.search.preparing import upright_pixels
from tbps.search.query import Filters, Part, Query
from tbps.search.row_pixels import HAS_CHANGED, pixels_of
from tbps.text.captions import EncodedCaption

ALL = Filters()
_RERANK_AT_ONCE = 32
"""Pictures whose tokens are held at once."""
_UNKNOWN_SHARE = 0.3
"""From this share of unknown pieces on it is said that a sentence is hardly understood."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A picture that was found."""

    picture: Picture
    similarity: float
    """Of its feature and the query's, -1 to 1."""
    score: float | None = None
    """The matcher's, where it was re-ranked: it decides the order then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The answer to a query."""

    hits: tuple[Hit, ...]
    """Best first: re-ranked ones by score, then the others by similarity; of equals the lower row first."""
    remarks: tuple[str, ...]
    """What the asker should know: what was not read of a sentence, what could not be re-ranked."""
    num_allowed: int
    """Pictures that the filters let through."""
    seconds: float


class Searcher:
    """An open index with the method that its features are of. Searching changes nothing."""

    def __init__(self, index: Index, model: SearchModel, *, pictures: Pictures | None = None, exact: bool = False) -> None:
        """pictures: where their files lie, where that is not what the index says; they are read for re-ranking alone.

        exact: make no use of faiss where the index has its codes. ValueError: the index was made with other weights or
        preprocessing, or has codes that cannot be used.
        """
        index.check_model(model)
        self.index = index
        self.model = model
        self._pictures = pictures
        self._approximate = None if exact else Approximate.open(index)

    @property
    def pictures(self) -> Pictures:
        """Where the files of the pictures lie. ValueError: they are not there."""
        if self._pictures is None:
            self._pictures = self.index.open_pictures()
        return self._pictures

    def search(self, query: Query, *, top: int = 20, filters: Filters = ALL, rerank: int = 0) -> Found:
        """The `top` pictures nearest to the query, among those that `filters` let through.

        rerank: how many of the nearest are ordered by the method's matcher, by their files; 0 = none. Where that cannot
        be, they are ordered by similarity, and a remark says why. ValueError: the query has no word or no picture.
        """
        started = time.perf_counter()
        if top < 1 or rerank < 0:
            raise ValueError(f"top is {top} and rerank {rerank}, expected at least 1 and at least 0")
        query_E, remarks = self.embed(query)
        allowed_N = self.index.live_N if filters == ALL else filters.allowed(self.index)
        row_K, similarity_K = self.nearest(query_E, top=max(top, rerank), allowed_N=allowed_N)
        hits = [
            Hit(picture=self.index.picture(row), similarity=similarity)
            for row, similarity in zip(row_K.tolist(), similarity_K.tolist(), strict=True)
        ]
        if rerank:
            reranked, why = self._reranked(query, hits[:rerank])
            hits, remarks = [*reranked, *hits[rerank:]], [*remarks, *why]
        return Found(
            hits=tuple(hits[:top]),
            remarks=tuple(remarks),
            num_allowed=int(np.count_nonzero(allowed_N)),
            seconds=time.perf_counter() - started,
        )

    def nearest(
        self, query_E: Tensor, *, top: int, allowed_N: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and similarities of the nearest allowed pictures, best first; by faiss where the index has its codes."""
        if self._approximate is not None:
            return self._approximate.best_rows(query_E, self.index, top=top, allowed_N=allowed_N)
        return best_rows(query_E, self.index.blocks(), num_rows=self.index.num_rows, top=top, allowed_N=allowed_N)

    def embed(self, query: Query) -> tuple[Tensor, list[str]]:
        """(E,) float32 unit feature of a query on the host, and remarks. ValueError: a part cannot be read."""
        sentences = [part.sentence for part in query.parts if part.sentence]
        remarks: list[str] = []
        features: dict[str, Tensor] = {}
        for sentence in sentences:
            features[sentence], said = self._embed_sentence(sentence)
            remarks += said
        total_E = torch.stack([part.weight * self._part_feature(part, features) for part in query.parts]).sum(0)
        length = float(total_E.norm())
        if length < 1e-6:
            raise ValueError("the parts of the query cancel each other, so that nothing is left to search with; change one")
        return total_E / length, remarks

    def _part_feature(self, part: Part, features: dict[str, Tensor]) -> Tensor:
        if part.sentence:
            return features[part.sentence]
        if part.row is not None:
            if not 0 <= part.row < self.index.num_rows:
                raise ValueError(f"picture {part.row} is not in the index, expected 0 to {self.index.num_rows - 1}")
            return torch.from_numpy(self.index.feature(part.row)).float()
        if part.feature:
            return torch.frombuffer(bytearray(part.feature), dtype=torch.float16).float()
        return self.embed_picture(self.picture_pixels(part.picture))

    def picture_pixels(self, content: bytes) -> Tensor:
        """(3, H, W) uint8 of the file of a picture to search with. ValueError: it is damaged, or no picture."""
        try:
            return self._resized(upright_pixels(content)[0])
        except ValueError as error:
            raise ValueError(f"the picture to search with cannot be used: {error}") from error

    def embed_picture(self, pixels_CHW: Tensor) -> Tensor:
        """(E,) float32 unit feature of `picture_pixels`, on the host."""
        return self.model.features_of(pixels_CHW[None])[0].float().cpu()

    def _embed_sentence(self, sentence: str) -> tuple[Tensor, list[str]]:
        if not self.model.encoder.clean(sentence) or not self.model.encoder.tokeniser.encode(sentence).ids:
            raise ValueError(
                f"the sentence {sentence[:80]!r} has no word, expected at least one; write what the person wears"
            )
        embedded = self.model.embed_sentences([sentence])
        return embedded.embedded.feature_QE[0].float().cpu(), self._remarks(sentence, embedded.encoded[0])

    def _remarks(self, sentence: str, encoded: EncodedCaption) -> list[str]:
        """What was not read, and what was not understood."""
        shown, remarks = f"{sentence[:40]!r}{'...' if len(sentence) > 40 else ''}", []
        if encoded.is_cut:
            dropped = {"words": encoded.num_dropped_words, "tokens": encoded.num_dropped_tokens}
            ends = " and ".join(f"{number} {name}" for name, number in dropped.items() if number)
            remarks.append(
                f"{len(encoded.token_ids)} tokens of the sentence {shown} are read, the most that the run reads; {ends} at"
                " its end are not"
            )
        unknown = unknown_share(self.model, encoded)
        if unknown >= _UNKNOWN_SHARE:
            remarks.append(
                f"{unknown:.0%} of the word pieces of {shown} are not in the vocabulary of the run: it hardly knows this"
                " language or these words"
            )
        return remarks

    def _resized(self, pixels_HWC: NDArray[np.uint8]) -> Tensor:
        """(3, H, W) uint8 of a picture, as it is indexed."""
        return resize_exactly(pixels_HWC, image_px=self.model.image_px, interpolation=self.model.pixels.interpolation)

    def _reranked(self, query: Query, hits: list[Hit]) -> tuple[list[Hit], list[str]]:
        """The same hits by matching score, those whose file cannot be used behind them; and why."""
        matcher = self.model.matcher
        parts = [part for part in query.parts if part.sentence]
        if matcher is None or not parts:
            why = "the method scores no pairs of picture and sentence" if matcher is None else "there is no sentence"
            return hits, [f"nothing is re-ranked, as {why}: pictures are ordered by similarity"]
        pixels, remarks = {}, []
        for place, hit in enumerate(hits):
            try:
                pixels[place] = self._resized(pixels_of(self.pictures, hit.picture))
            except (ValueError, OSError) as error:
                advice = "; run tbps index again" if str(error) == HAS_CHANGED else ""
                remarks.append(f"{hit.picture.name} is not re-ranked: {error}{advice}")
        score_K = self._scores(matcher, parts, list(pixels.values()))
        scored = [
            Hit(picture=hits[place].picture, similarity=hits[place].similarity, score=score)
            for place, score in zip(pixels, score_K.tolist(), strict=True)
        ]
        scored.sort(key=lambda hit: -(hit.score or 0.0))  # stable: equal scores by similarity
        return [*scored, *(hit for place, hit in enumerate(hits) if place not in pixels)], remarks

    def _scores(self, matcher: Matcher, parts: list[Part], pixels: list[Tensor]) -> Tensor:
        """(K,) sum of the sentences' matching scores, each times its weight."""
        read = self.model.embed_sentences([part.sentence for part in parts])
        weight_S = torch.tensor([part.weight for part in parts])
        scores = [torch.zeros(0)]
        for first in range(0, len(pixels), _RERANK_AT_ONCE):
            tokens_IPD = self.model.embed_pixels(torch.stack(pixels[first : first + _RERANK_AT_ONCE])).tokens_IPD
            assert tokens_IPD is not None, "a method with a matcher gives what it reads"
            image_M, sentence_M = torch.cartesian_prod(torch.arange(len(tokens_IPD)), torch.arange(len(parts))).T
            with self.model.computing():
                score_M = rerank_scores(matcher, tokens_IPD, read.captions, read.embedded.hidden_ND, image_M, sentence_M)
            scores.append(score_M.view(len(tokens_IPD), len(parts)) @ weight_S)
        return torch.cat(scores)


def unknown_share(model: SearchModel, encoded: EncodedCaption) -> float:
    """Share of a sentence's pieces that the vocabulary does not know; of CLIP's bytes, those of no Latin letter."""
    tokeniser = model.encoder.tokeniser
    special = tokeniser.special_ids
    ids = [token_id for token_id in encoded.token_ids.tolist() if token_id not in special]
    unk_id = getattr(tokeniser, "unk_id", None)
    if unk_id is not None:
        return ids.count(unk_id) / max(1, len(ids))
    return sum(not tokeniser.word_of(token_id).isascii() for token_id in ids) / max(1, len(ids))
