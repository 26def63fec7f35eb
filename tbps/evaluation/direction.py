"""One direction of retrieval: queries' features against a gallery's, before and after re-ranking.

Shapes: A queries (captions, or images), G gallery (images, or captions), C queries of a chunk, K candidates, T shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tbps.evaluation.chance import chance
from tbps.evaluation.metrics import Metrics, QueryScores, join_scores, score_queries, summarise
from tbps.evaluation.ranking_order import (
    Rule,
    Span,
    final_order,
    least_of_each_share,
    similarity_order,
    summed_scores,
    sums_of_processes,
)
from tbps.evaluation.ranks import Ranks

CHUNK_QUERIES = 256
"""Queries whose whole order is held at once: 40 MB for ICFG-PEDES's 19,848 images."""
NUM_SHOWN = 10
"""First entries of the final order that are kept for the report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """The first T entries of each query's final order (on the host)."""

    gallery_AT: Tensor
    """(A, T) int64."""
    similarity_AT: Tensor
    """(A, T) float32."""
    score_AT: Tensor
    """(A, T) float32 matching score; NaN where the entry was not re-ranked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Direction:
    """Results of one direction."""

    coarse: Metrics
    """Ranked by similarity alone."""
    reranked: Metrics | None
    """Candidates ranked by matching score, or by its sum with the similarity; None = not re-ranked."""
    chance: Metrics
    """What a random order gives."""
    scores: QueryScores
    """Of each query, by the final order."""
    shown: Shown
    num_gallery: int
    num_candidates: int
    """K; 0 = not re-ranked."""

    @property
    def final(self) -> Metrics:
        """Re-ranked where that was done, else by similarity."""
        return self.coarse if self.reranked is None else self.reranked


def rank_direction(
    query_AE: Tensor,
    gallery_GE: Tensor,
    query_identity_A: Tensor,
    gallery_identity_G: Tensor,
    *,
    ranks: Ranks,
    num_candidates: int,
    rule: Rule,
    match: Callable[[Tensor], Tensor],
) -> Direction:
    """Rank the gallery for every query, each process its chunks.

    query_AE, gallery_GE: unit rows, similarity is their product;  identities int64 on the same device;
    match: candidates (A, K) to matching scores (A, K), asked once and only where `num_candidates` > 0.
    """
    num_candidates = min(num_candidates, len(gallery_GE))
    chunks = ranks.own_blocks(len(query_AE), block=CHUNK_QUERIES)
    counts = [len(share) for share in ranks.shares(len(query_AE), block=CHUNK_QUERIES)]

    def similarity(chunk: range) -> Tensor:
        return query_AE[chunk.start : chunk.stop] @ gallery_GE.T

    def score(chunk: range, order_CG: Tensor) -> QueryScores:
        return score_queries(order_CG, query_identity_A[chunk.start : chunk.stop], gallery_identity_G)

    kept = max(num_candidates, NUM_SHOWN)
    coarse_parts, first_parts, spans = [], [], []
    for chunk in chunks:
        similarity_CG = similarity(chunk)
        order_CG = similarity_order(similarity_CG)
        spans.append(Span.of(similarity_CG))
        coarse_parts.append(score(chunk, order_CG))
        first_parts.append(order_CG[:, :kept])
    first_AK = ranks.gather(_joined(first_parts, width=min(kept, len(gallery_GE)), like=gallery_identity_G), counts)
    coarse = _gather_scores(coarse_parts, ranks, counts, device=query_AE.device)
    final, score_AK = coarse, None
    shown_AT = first_AK[:, :NUM_SHOWN]
    if num_candidates:
        candidate_AK = first_AK[:, :num_candidates]
        score_AK = match(candidate_AK)
        of_scores, of_similarities = Span.of(score_AK), _joined_span(spans, ranks, like=query_AE)
        final_parts, shown_parts = [], []
        for chunk in chunks:
            rows = slice(chunk.start, chunk.stop)
            similarity_CG, final_CK = similarity(chunk), score_AK[rows]
            if rule.score == "sum":
                candidate_CK = similarity_CG.gather(1, candidate_AK[rows])
                final_CK = _sums(
                    score_AK, rows, candidate_CK, rule=rule, of_scores=of_scores, of_similarities=of_similarities
                )
            order_CG = final_order(similarity_CG, candidate_AK[rows], final_CK, tail=rule.tail)
            final_parts.append(score(chunk, order_CG))
            shown_parts.append(order_CG[:, :NUM_SHOWN])
        shown_AT = ranks.gather(_joined(shown_parts, width=shown_AT.shape[1], like=gallery_identity_G), counts)
        final = _gather_scores(final_parts, ranks, counts, device=query_AE.device)
    return Direction(
        coarse=summarise(coarse),
        reranked=summarise(final) if num_candidates else None,
        chance=chance(coarse.num_relevant_Q, len(gallery_GE)),
        scores=final,
        shown=_shown(query_AE, gallery_GE, shown_AT, first_AK[:, :num_candidates], score_AK),
        num_gallery=len(gallery_GE),
        num_candidates=num_candidates,
    )


def _sums(
    score_AK: Tensor, rows: slice, similarity_CK: Tensor, *, rule: Rule, of_scores: Span, of_similarities: Span
) -> Tensor:
    """The score `sum` of the candidates of some queries."""
    weight = rule.similarity_weight
    if rule.processes == 1:
        return summed_scores(
            score_AK[rows],
            similarity_CK,
            of_scores=of_scores,
            of_similarities=of_similarities,
            similarity_weight=weight,
        )
    return sums_of_processes(
        score_AK[rows],
        similarity_CK,
        least_C1=least_of_each_share(score_AK, processes=rule.processes)[rows],
        of_similarities=of_similarities,
        similarity_weight=weight,
        processes=rule.processes,
    )


def _shown(query_AE: Tensor, gallery_GE: Tensor, shown_AT: Tensor, candidate_AK: Tensor, score_AK: Tensor | None) -> Shown:
    """Similarities and matching scores of the entries that are shown."""
    similarity_AT = torch.stack(
        [(query_AE * gallery_GE[shown_AT[:, place]]).sum(dim=1) for place in range(shown_AT.shape[1])], dim=1
    )
    score_AT = torch.full_like(similarity_AT, torch.nan)
    if score_AK is not None:
        for place in range(shown_AT.shape[1]):
            is_it_AK = candidate_AK == shown_AT[:, place : place + 1]
            found_A = score_AK.masked_fill(~is_it_AK, 0).sum(dim=1)
            score_AT[:, place] = torch.where(is_it_AK.any(dim=1), found_A, torch.nan)
    return Shown(gallery_AT=shown_AT.cpu(), similarity_AT=similarity_AT.cpu(), score_AT=score_AT.cpu())


def _joined(parts: list[Tensor], *, width: int, like: Tensor) -> Tensor:
    """Chunks one after another; a process without chunks brings (0, width)."""
    return torch.cat([like.new_zeros(0, width), *parts])


def _joined_span(spans: list[Span], ranks: Ranks, *, like: Tensor) -> Span:
    """The span of the values of all processes; one without chunks brings an empty span."""
    own = Span.join([Span(least=math.inf, largest=-math.inf), *spans])
    edge_R2 = ranks.gather(like.new_tensor([[own.least, own.largest]]), [1] * ranks.size)
    return Span(least=float(edge_R2[:, 0].min()), largest=float(edge_R2[:, 1].max()))


def _gather_scores(parts: list[QueryScores], ranks: Ranks, counts: list[int], *, device: torch.device) -> QueryScores:
    """Scores of all queries, from all processes. Counts are exact in float64, so one table carries everything."""
    table_R4 = torch.zeros(0, 4, dtype=torch.float64)
    if parts:
        own = join_scores(parts)
        table_R4 = torch.stack(
            [
                own.num_relevant_Q.double(),
                own.first_hit_Q.double(),
                own.average_precision_Q,
                own.inverse_negative_penalty_Q,
            ],
            dim=1,
        )
    relevant, first_hit, precision, penalty = ranks.gather(table_R4.to(device), counts).cpu().unbind(dim=1)
    return QueryScores(
        num_relevant_Q=relevant.long(),
        first_hit_Q=first_hit.long(),
        average_precision_Q=precision,
        inverse_negative_penalty_Q=penalty,
    )
