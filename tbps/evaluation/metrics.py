"""Ranking metrics of retrieval: rank-k, mAP and mINP, all 0-100, from the whole order of the gallery.

For one query with n relevant gallery entries (those of its identity) at places r_1 < ... < r_n of its order:

    hit within k   r_1 <= k
    AP             1/n sum_i i / r_i
    INP            n / r_n

rank_k, mAP and mINP are means over queries. Worked example: an order with identities [7, 3, 7] for a query of identity 7
gives a hit at 1, AP = (1/1 + 2/3) / 2 = 83.3 and INP = 2/3 = 66.7. Ties: see `ranking_order.py`.

A query without any relevant entry counts as a miss in rank_k and is left out of mAP and mINP; the result says how many
there are. (RaSa's code gives NaN for mAP there, IRRA's raises in mINP.)
Source: the same definitions as the official code of IRRA, RaSa, APTM and TBPS-CLIP; nothing is cut off at any depth.
Shapes: Q queries, C queries of a chunk, G gallery.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tbps.evaluation.metric_names import RANKS
from tbps.evaluation.ranking_order import similarity_order


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryScores:
    """What the order of its gallery says about each query (on the host)."""

    num_relevant_Q: Tensor
    """(Q,) int64: gallery entries of the query's identity."""
    first_hit_Q: Tensor
    """(Q,) int64: place of the first relevant entry, counted from 1; 0 = there is none."""
    average_precision_Q: Tensor
    """(Q,) float64, 0-100; NaN where no entry is relevant."""
    inverse_negative_penalty_Q: Tensor
    """(Q,) float64, 0-100; NaN where no entry is relevant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """Means over queries, 0-100."""

    rank_1: float
    rank_5: float
    rank_10: float
    mAP: float
    mINP: float
    num_queries: int
    num_without_match: int
    """Queries without a relevant gallery entry: misses in rank_k, left out of mAP and mINP."""


def score_queries(order_CG: Tensor, query_identity_C: Tensor, gallery_identity_G: Tensor) -> QueryScores:
    """Score each query by the order of its whole gallery.

    order_CG (C, G) int64 gallery indices, best first; identities int64 on the same device.
    """
    relevant_CG = gallery_identity_G[order_CG] == query_identity_C[:, None]
    num_relevant_C = relevant_CG.sum(dim=1)
    place_G = torch.arange(1, order_CG.shape[1] + 1, device=order_CG.device)
    # argmax gives the first true column; a query without one is told apart by its count.
    first_hit_C = torch.where(num_relevant_C > 0, relevant_CG.int().argmax(dim=1) + 1, 0)
    last_hit_C = (relevant_CG * place_G).amax(dim=1)
    precision_CG = relevant_CG.cumsum(dim=1).double().div_(place_G).mul_(relevant_CG)
    return QueryScores(
        num_relevant_Q=num_relevant_C.cpu(),
        first_hit_Q=first_hit_C.cpu(),
        average_precision_Q=(100 * precision_CG.sum(dim=1) / num_relevant_C).cpu(),
        inverse_negative_penalty_Q=(100 * num_relevant_C.double() / last_hit_C).cpu(),
    )


def join_scores(parts: Iterable[QueryScores]) -> QueryScores:
    """Scores of several chunks, one after another."""
    parts = list(parts)
    return QueryScores(
        num_relevant_Q=torch.cat([part.num_relevant_Q for part in parts]),
        first_hit_Q=torch.cat([part.first_hit_Q for part in parts]),
        average_precision_Q=torch.cat([part.average_precision_Q for part in parts]),
        inverse_negative_penalty_Q=torch.cat([part.inverse_negative_penalty_Q for part in parts]),
    )


def rank_k(scores: QueryScores, k: int) -> float:
    """Percentage of queries with a relevant entry among the first k."""
    return 100 * float(((scores.first_hit_Q >= 1) & (scores.first_hit_Q <= k)).double().mean())


def summarise(scores: QueryScores) -> Metrics:
    """Mean the scores of all queries. Raises ValueError where no query has a relevant entry."""
    matched_Q = scores.num_relevant_Q > 0
    if not matched_Q.any():
        raise ValueError(
            f"none of the {len(matched_Q)} queries has its identity in the gallery, expected at least one:"
            " queries and gallery come from different splits or data sets"
        )
    rank_1, rank_5, rank_10 = (rank_k(scores, k) for k in RANKS)
    return Metrics(
        rank_1=rank_1,
        rank_5=rank_5,
        rank_10=rank_10,
        mAP=float(scores.average_precision_Q[matched_Q].mean()),
        mINP=float(scores.inverse_negative_penalty_Q[matched_Q].mean()),
        num_queries=len(matched_Q),
        num_without_match=int((~matched_Q).sum()),
    )


def ranking_scores(
    similarity_QG: Tensor, query_identity_Q: Tensor, gallery_identity_G: Tensor, *, chunk_queries: int = 256
) -> QueryScores:
    """Score each query by descending similarity, `chunk_queries` at a time: the order is never held as a whole."""
    chunks = zip(similarity_QG.split(chunk_queries), query_identity_Q.split(chunk_queries), strict=True)
    return join_scores(
        score_queries(similarity_order(similarity_CG), identity_C, gallery_identity_G)
        for similarity_CG, identity_C in chunks
    )


def ranking_metrics(
    similarity_QG: Tensor, query_identity_Q: Tensor, gallery_identity_G: Tensor, *, chunk_queries: int = 256
) -> Metrics:
    """Metrics of a gallery ranked by descending similarity, equal ones by ascending index.

    similarity_QG (Q, G) float; identities (Q,) and (G,) int64, all on one device. Raises ValueError where a similarity
    is not a number or no query has a match.
    """
    return summarise(ranking_scores(similarity_QG, query_identity_Q, gallery_identity_G, chunk_queries=chunk_queries))
