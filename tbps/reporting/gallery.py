"""What a method finds: some captions with the first images of their order, written beside the results.

Captions are chosen by rule, not by hand, so that a report shows the method as it is:
typical  average precision nearest to the median;  hard  first right image at rank 2 to 10;  failed  beyond rank 10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbps.data.images import decode
from tbps.data.pairs import EvaluationSet
from tbps.evaluation.evaluate import Evaluated
from tbps.evaluation.metrics import QueryScores
from tbps.reporting.thumbnail import thumbnail
from tbps.runs.atomic_file import write_json

SHOWN_RANKS = 10
HEIGHT_PX = 192
"""Rows of a thumbnail."""
FOLDER = "report"
COMPARED = "compared"
"""Key of the captions that are the same whatever was found, so that runs can be set side by side."""
NUM_COMPARED = 6


def choose_queries(scores: QueryScores, *, per_group: int = 4) -> dict[str, list[int]]:
    """Rows of the captions that each group shows; a group may hold fewer, and no caption is in two of them.

    Captions without a right image in the gallery are in none. `hard` and `failed` are spread evenly over the split.
    """
    matched = (scores.num_relevant_Q > 0).nonzero()[:, 0]
    precision = scores.average_precision_Q[matched]
    nearest = torch.sort((precision - precision.median()).abs(), stable=True).indices[:per_group]
    typical = sorted(matched[nearest].tolist())
    first = scores.first_hit_Q
    return {
        "typical": typical,
        "hard": _spread((first >= 2) & (first <= SHOWN_RANKS), per_group, without=typical),
        "failed": _spread(first > SHOWN_RANKS, per_group, without=typical),
    }


def write_queries(
    run_folder: Path, name: str, evaluated: Evaluated, evaluation_set: EvaluationSet, *, per_group: int = 4
) -> Path:
    """Write `report/queries-<name>.json` with thumbnails: the report then needs neither method nor data set.

    name: the stem of the results file that it belongs to.
    """
    scores = evaluated.text_to_image.scores
    groups = choose_queries(scores, per_group=per_group)
    first = scores.first_hit_Q
    counts = {
        "typical": len(first),
        "hard": int(((first >= 2) & (first <= SHOWN_RANKS)).sum()),
        "failed": int((first > SHOWN_RANKS).sum()),
    }
    pictures: dict[str, str] = {}
    content = {
        "captions": len(first),
        "without_match": int((scores.num_relevant_Q == 0).sum()),
        "median_ap": float(scores.average_precision_Q[scores.num_relevant_Q > 0].median()),
        "reranked": evaluated.text_to_image.reranked is not None,
        "groups": [
            {
                "name": group,
                "count": counts[group],
                "queries": [_query(query, evaluated, evaluation_set, pictures) for query in queries],
            }
            for group, queries in groups.items()
        ],
        COMPARED: [
            _query(query, evaluated, evaluation_set, pictures)
            for query in _spread(scores.num_relevant_Q > 0, NUM_COMPARED, without=())
        ],
        "pictures": pictures,
    }
    file = run_folder / FOLDER / f"queries-{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content)
    return file


def _query(query: int, evaluated: Evaluated, evaluation_set: EvaluationSet, pictures: dict[str, str]) -> dict[str, Any]:
    """One caption with the head of its order; puts thumbnails of what it names into `pictures`, by image path."""
    direction = evaluated.text_to_image
    identity = int(evaluation_set.query_identity_Q[query])
    true_image = int(evaluation_set.query_image_Q[query])
    images: Sequence[int] = direction.shown.gallery_AT[query, :SHOWN_RANKS].tolist()
    for image in {true_image, *images}:
        path = evaluation_set.gallery_key(image)
        if path not in pictures:
            pixels_HWC = decode(evaluation_set.gallery_bytes(image), key=path)
            pictures[path] = thumbnail(pixels_HWC, height_px=HEIGHT_PX)
    return {
        "key": evaluation_set.query_key(query),
        "caption": evaluation_set.query_caption(query),
        "identity": identity,
        "image": evaluation_set.gallery_key(true_image),
        "first_hit": int(direction.scores.first_hit_Q[query]),
        "ap": float(direction.scores.average_precision_Q[query]),
        "found": [
            {
                "image": evaluation_set.gallery_key(image),
                "identity": int(evaluation_set.gallery_identity_G[image]),
                "right": int(evaluation_set.gallery_identity_G[image]) == identity,
                "own": image == true_image,
                "similarity": float(similarity),
                "score": None if math.isnan(score) else float(score),
            }
            for image, similarity, score in zip(
                images,
                direction.shown.similarity_AT[query].tolist(),
                direction.shown.score_AT[query].tolist(),
                strict=True,
            )
        ],
    }


def _spread(wanted_Q: Tensor, number: int, *, without: Sequence[int]) -> list[int]:
    """At most `number` of the wanted rows, evenly spread."""
    rows = [row for row in wanted_Q.nonzero()[:, 0].tolist() if row not in without]
    if len(rows) <= number:
        return rows
    return [rows[place * (len(rows) - 1) // (number - 1)] for place in range(number)] if number > 1 else rows[:number]
