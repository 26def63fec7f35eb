"""In which order a query's gallery is shown: by similarity, and by matching score where the first k were re-ranked.

Ties are always broken the same way, so that an order is a function of its numbers alone and equal on every machine.
Shapes: C queries of a chunk, G gallery, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Tail = Literal["similarity", "index"]
Score = Literal["matching", "sum"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How the final order is made of similarities and the candidates' matching scores; see `tbps.config.evaluation`."""

    tail: Tail = "similarity"
    """Order of the entries that are no candidates."""
    score: Score = "matching"
    """What orders the candidates."""
    similarity_weight: float = 0.002
    """Weight of the similarity in the score `sum`."""
    processes: int = 1
    """The score `sum` as APTM's evaluation code makes it on so many processes; 1 = free of how many there were."""

    @property
    def itc_weight(self) -> float:
        """Weight of the similarity among the candidates."""
        return self.similarity_weight if self.score == "sum" else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Least and largest of many values, by which they are brought to 0 to 1."""

    least: float
    largest: float

    @classmethod
    def of(cls, values: Tensor) -> Span:
        """Of all values of a tensor."""
        least, largest = values.aminmax()
        return cls(least=float(least), largest=float(largest))

    @classmethod
    def join(cls, spans: Iterable[Span]) -> Span:
        """Of the values of all spans."""
        spans = list(spans)
        return cls(least=min(span.least for span in spans), largest=max(span.largest for span in spans))

    def scaled(self, values: Tensor) -> Tensor:
        """Values of this span to 0 to 1; all 0 where they are all equal."""
        width = self.largest - self.least
        return (values - self.least) / width if width > 0 else torch.zeros_like(values)


def similarity_order(similarity_CG: Tensor) -> Tensor:
    """Gallery indices by descending similarity; equal similarities by ascending index.

    (C, G) float to (C, G) int64. Raises ValueError where a similarity is not a number: a sort would put it first.
    """
    _refuse_nan(similarity_CG, "similarity")
    return torch.sort(similarity_CG, dim=1, descending=True, stable=True).indices


def final_order(similarity_CG: Tensor, candidate_CK: Tensor, score_CK: Tensor, *, tail: Tail) -> Tensor:
    """Gallery indices with the K candidates first, by descending matching score; then all others, the tail.

    Equal scores: by similarity, then by ascending index. The tail `similarity` goes on by similarity; `index` by
    ascending index, which is what the official code's fill value of -100 gives under a stable sort (its own sort is
    unstable, so its mAP is not a function of the scores).

    candidate_CK  (C, K) int64, K different gallery indices per query, in any order;  score_CK  (C, K) their scores;
    returns (C, G) int64. Raises ValueError where a similarity or score is not a number.
    """
    _refuse_nan(score_CK, "matching score")
    num_candidates = candidate_CK.shape[1]
    order_CG = similarity_order(similarity_CG)
    is_candidate_CG = torch.zeros_like(similarity_CG, dtype=torch.bool).scatter_(1, candidate_CK, True)
    arranged_CG = _candidates_first(order_CG, is_candidate_CG.gather(1, order_CG), num_candidates)
    head_CK, tail_CT = arranged_CG[:, :num_candidates], arranged_CG[:, num_candidates:]
    score_CG = score_CK.new_zeros(similarity_CG.shape).scatter_(1, candidate_CK, score_CK)
    by_score_CK = torch.sort(score_CG.gather(1, head_CK), dim=1, descending=True, stable=True).indices
    if tail == "index":
        index_CG = torch.arange(similarity_CG.shape[1], device=order_CG.device).expand_as(order_CG)
        tail_CT = _candidates_first(index_CG, is_candidate_CG, num_candidates)[:, num_candidates:]
    return torch.cat([head_CK.gather(1, by_score_CK), tail_CT], dim=1)


def _candidates_first(order_CG: Tensor, is_candidate_CG: Tensor, num_candidates: int) -> Tensor:
    """The order with its candidates before all others, each of both as they were. Nothing has a shape of values, which would
    make a GPU's host wait."""
    head_CG, tail_CG = is_candidate_CG.cumsum(1) - 1, num_candidates - 1 + (~is_candidate_CG).cumsum(1)
    return torch.empty_like(order_CG).scatter_(1, torch.where(is_candidate_CG, head_CG, tail_CG), order_CG)


def summed_scores(
    score_CK: Tensor, similarity_CK: Tensor, *, of_scores: Span, of_similarities: Span, similarity_weight: float
) -> Tensor:
    """score + similarity_weight * similarity of each candidate, each brought to 0 to 1 first: (C, K).

    of_scores: of all candidates' matching scores of the split; of_similarities: of all its similarities.
    Source: APTM's evaluation code (Shuyu-XJTU/APTM, reTools.py) on one process. There an entry that is no candidate takes
    its query's lowest matching score, so it stands behind the candidates, by similarity: our tail of that name.
    """
    return of_scores.scaled(score_CK) + similarity_weight * of_similarities.scaled(similarity_CK)


FILL = 1000.0
"""What APTM's code has in the rows of other processes when it looks for the least and the largest matching score."""


def least_of_each_share(score_AK: Tensor, *, processes: int) -> Tensor:
    """The least matching score of the queries that one process had, for each query: (A, 1).

    APTM's code gives A // W + 1 consecutive queries to each of W processes, the last ones fewer.
    """
    share = len(score_AK) // processes + 1
    return torch.cat([part.min().expand(len(part), 1) for part in score_AK.split(share)])


def sums_of_processes(
    score_CK: Tensor,
    similarity_CK: Tensor,
    *,
    least_C1: Tensor,
    of_similarities: Span,
    similarity_weight: float,
    processes: int,
) -> Tensor:
    """What APTM's evaluation code orders the candidates by on W > 1 processes, but for a constant W - 1: (C, K).

    (m - least) / (1000 - least) + W * similarity_weight * similarity, similarities brought to 0 to 1.

    Each process brings its matching scores m to 0 to 1 together with the fill value 1000 of all other rows, adds the
    similarities to every row, and the matrices of all processes are added. So m counts about a thousandth, and the
    similarity W times. least_C1: of the share that a query belongs to (`least_of_each_share`).
    Source: Shuyu-XJTU/APTM, reTools.py; its figures were made on 4 processes.
    """
    scaled_CK = (score_CK - least_C1) / (FILL - least_C1)
    return scaled_CK + processes * similarity_weight * of_similarities.scaled(similarity_CK)


def _refuse_nan(value_CG: Tensor, name: str) -> None:
    wrong = int(torch.isnan(value_CG).sum())
    if wrong:
        raise ValueError(
            f"{wrong} of {value_CG.numel()} values of {name} are not a number, expected none:"
            " the weights have diverged; evaluate an earlier checkpoint"
        )
