"""Embedding, ranking and re-ranking of every method at real size, in both precisions, by the function that evaluates.

The split is small, and its images are read, but features, tokens and cross encoders are as large as the recipe's. The host
may wait where a step of the ranking ends; nothing waits in a block of images or captions.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rehearsed import METHODS, PAIRS, PRECISIONS, real_run
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "evaluation"))

from small_retrieval import small_encoder, write_split

from tbps.config.needs import Text
from tbps.data.pairs import EvaluationSet
from tbps.evaluation.evaluate import evaluate
from tbps.planning.rehearsal import Rehearsal, stage
from tbps.planning.waits import NotOnDevice, naming_lines
from tbps.text.captions import CaptionEncoder
from tbps.text.clip_tokens import ClipTokens

ALLOWED = {
    "_both_directions": "identities of the split, once",
    "_refuse_nan": "a number that is not one ends the evaluation; once a chunk of 256 queries",
    "Span.of": "the range of similarities; once a chunk",
    "_joined_span": "the same of all processes",
    "score_queries": "scores of a chunk's queries",
    "_gather_scores": "the same of all processes",
    "candidate_scores": "which pairs are scored is laid out on the host",
    "rerank_scores": "the scores, once",
    "_shown": "what the report shows, once",
}
"""Functions in which the host may wait, and for what."""


def reading(shape: torch.Size, kind: torch.dtype) -> Tensor:
    """What the host reads of an evaluation: rows of the gallery, and scores that are one."""
    return torch.ones(shape, dtype=kind) if kind.is_floating_point else torch.arange(shape.numel()).view(shape).to(kind) % 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("split")


@pytest.fixture(scope="module")
def split(folder: Path) -> EvaluationSet:
    return write_split(folder)


def encoder_of(text: Text, folder: Path) -> CaptionEncoder:
    if text.tokeniser == "clip":
        return CaptionEncoder(
            ClipTokens(with_mask=text.mask_id is not None), max_words=0, max_tokens=40, cleaning="space", chunker=None
        )
    return small_encoder(folder)


@pytest.mark.parametrize("name", METHODS)
def test_an_evaluation_waits_where_it_says(name: str, split: EvaluationSet, folder: Path) -> None:
    run = real_run(name, "bf16")
    config = replace(run.evaluation, rerank_k=4, batch_images=8, batch_captions=16)
    with stage(run, pairs=PAIRS) as fake:
        fake.guess = reading
        method = Rehearsal(run, fake, pairs=PAIRS).method
        for precision in PRECISIONS if not run.lora.on else ("bf16",):
            fake.waits.found.clear()
            with naming_lines():
                evaluated = evaluate(
                    method,
                    split,
                    encoder_of(run.needs.text, folder),
                    config,
                    image_px=run.data.image_px,
                    pixels=run.data.pixels,
                    device=fake.device,
                    rerank_image_to_text=True,
                    precision=precision,
                )
            found = Counter(str(wait) for wait in fake.waits.found if wait.function not in ALLOWED)
            assert not found, NotOnDevice("\n".join(found))
            assert (evaluated.text_to_image.reranked is not None) == run.needs.matcher
