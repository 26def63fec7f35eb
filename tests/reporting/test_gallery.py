import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from filled_run import rank_noisy_features, write_people
from PIL import Image

from tbps.evaluation.metrics import QueryScores
from tbps.reporting.gallery import choose_queries, write_queries
from tbps.reporting.thumbnail import thumbnail


def scores(first_hit: list[int], precision: list[float]) -> QueryScores:
    first = torch.tensor(first_hit)
    return QueryScores(
        num_relevant_Q=(first > 0).long(),
        first_hit_Q=first,
        average_precision_Q=torch.tensor(precision, dtype=torch.float64),
        inverse_negative_penalty_Q=torch.zeros(len(first_hit), dtype=torch.float64),
    )


def test_queries_are_chosen_by_the_rank_of_their_first_right_image() -> None:
    nan = float("nan")
    found = scores([1, 2, 10, 11, 0, 1, 1, 50, 5, 3], [90, 40, 30, 20, nan, 80, 60, 5, 35, 38])
    assert choose_queries(found, per_group=2) == {"typical": [1, 9], "hard": [2, 8], "failed": [3, 7]}


def test_groups_are_spread_over_the_split_and_may_be_small() -> None:
    found = scores([1] * 50 + [4] * 101 + [11], [50.0] * 50 + [20.0] * 101 + [1.0])
    chosen = choose_queries(found, per_group=3)
    assert chosen["typical"] == [50, 51, 52]
    assert chosen["hard"] == [53, 101, 150]
    assert chosen["failed"] == [151]
    assert choose_queries(found, per_group=1)["hard"] == [51]


def test_written_queries_hold_the_truth_of_the_evaluation(tmp_path: Path) -> None:
    evaluation_set = write_people(tmp_path)
    evaluated = rank_noisy_features(evaluation_set)
    content = json.loads(write_queries(tmp_path / "run", "test", evaluated, evaluation_set, per_group=3).read_text())
    first_hit = evaluated.text_to_image.scores.first_hit_Q
    counts = {group["name"]: group["count"] for group in content["groups"]}
    assert counts["hard"] == int(((first_hit > 1) & (first_hit < 11)).sum())
    assert counts["failed"] == int((first_hit > 10).sum())
    queries = [(group["name"], query) for group in content["groups"] for query in group["queries"]]
    assert len(queries) == 9
    for name, query in queries:
        number = next(q for q in range(180) if evaluation_set.query_key(q) == query["key"])
        assert query["caption"] == evaluation_set.query_caption(number)
        assert query["key"].startswith(query["image"])
        right = [place for place, image in enumerate(query["found"], start=1) if image["right"]]
        assert [image["identity"] == query["identity"] for image in query["found"]] == [
            image["right"] for image in query["found"]
        ]
        assert (right[0] if right else None) == (query["first_hit"] if query["first_hit"] <= 10 else None)
        assert bool(right) == (name != "failed")
        matching = [image["score"] for image in query["found"][:8]]
        assert matching == sorted(matching, reverse=True)
        assert [image["score"] for image in query["found"][8:]] == [None, None]
    assert {image["image"] for _, query in queries for image in query["found"]} <= set(content["pictures"])


@pytest.mark.parametrize(("height", "rows"), [(384, 100), (60, 60)])
def test_thumbnails_keep_their_shape_and_are_never_enlarged(height: int, rows: int) -> None:
    pixels = np.full((height, height // 2, 3), 77, dtype=np.uint8)
    with Image.open(io.BytesIO(base64.b64decode(thumbnail(pixels, height_px=100)))) as image:
        assert (image.format, image.size) == ("JPEG", (rows // 2, rows))
        assert abs(int(np.asarray(image).mean()) - 77) <= 1
