"""Settings of how retrieval is scored, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tbps.config.place import PLACE
from tbps.config.ranges import Count, CountOrNone, NotNegative, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """When and how retrieval is scored."""

    every_epochs: NotNegative = 1.0
    """Epochs between validations; 0 = only at the end."""
    rerank_k: CountOrNone = 128
    """Images per caption that the matching head re-ranks (0 = rank by similarity alone)."""
    validation_rerank: bool = False
    """Re-rank in validation too; the final test always does if `rerank_k` > 0."""
    selection: Literal["val", "last"] = "val"
    """Which checkpoint is tested: best mean of rank-1 and mAP on val, or the last (data sets without a val split)."""
    tail: Literal["similarity", "index"] = "similarity"
    """Order of the images beyond `rerank_k`: by similarity, or by index as the official fill value with a stable sort."""
    score: Literal["matching", "sum"] = "matching"
    """What orders the re-ranked images: the matching score alone, or its `sum` with `similarity_weight` times the
    similarity, each brought to 0 to 1 by its least and largest value in the split (APTM's rule on one process)."""
    similarity_weight: NotNegative = 0.002
    """Weight of the similarity in the `sum`; APTM's by default (its evaluation code; the paper names none)."""
    score_processes: Count = 1
    """The `sum` as APTM's code makes it on so many processes, however many there are: its published figures were made on 4.
    There matching counts about a thousandth, and the similarity once for each process, which looks like a mistake. 1 = the
    `sum` as it is meant."""
    test: bool = True
    """Touch the test split, once, at the end."""
    batch_images: Count = field(default=64, metadata=PLACE)
    """Gallery images of one forward pass."""
    batch_captions: Count = field(default=256, metadata=PLACE)
    """Queries of one forward pass."""

    def __post_init__(self) -> None:
        check_ranges(self, "evaluation")
        if self.score_processes > 1 and self.score != "sum":
            raise ValueError(
                f"evaluation.score_processes is {self.score_processes} and evaluation.score is {self.score}, expected 1:"
                " only the score sum depends on it; set one of them"
            )
