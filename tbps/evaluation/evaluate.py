"""Score a method on one split: embed, rank by similarity, re-rank the best by matching, in both directions.

Results are equal to the last bit for any number of processes: see `ranks.py`.
Shapes: G gallery images, Q queries (captions), K candidates.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tbps.config.data import Pixels
from tbps.config.evaluation import Evaluation
from tbps.config.run import Run
from tbps.data.pairs import EvaluationSet
from tbps.evaluation.candidates import candidate_scores
from tbps.evaluation.direction import Direction, rank_direction
from tbps.evaluation.embedding import Gallery, embed_gallery, embed_queries
from tbps.evaluation.metric_names import METRICS
from tbps.evaluation.metrics import Metrics
from tbps.evaluation.ranking_order import Rule
from tbps.evaluation.ranks import Ranks
from tbps.methods.method import EmbeddedCaptions, Matcher, Method
from tbps.text.captions import CaptionEncoder, make_captions
from tbps.text.token_batch import Captions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """Both directions of one split, and by which rules."""

    text_to_image: Direction
    image_to_text: Direction
    rule: Rule
    num_identities: int
    """Different identities of the gallery."""
    num_images: int
    num_captions: int
    num_cut_captions: int
    """Captions with more word pieces than the encoder's cap; the rest of them was not read."""
    num_processes: int
    embed_s: float
    """Seconds for embedding images and captions."""
    rank_s: float
    """Seconds for ranking and re-ranking."""

    def values(self) -> dict[str, float]:
        """Final metrics of text to image by name, 0-100: what a checkpoint is chosen by."""
        final = self.text_to_image.final
        return {name: float(getattr(final, name)) for name in METRICS}


def evaluate(
    method: Method,
    evaluation_set: EvaluationSet,
    encoder: CaptionEncoder,
    config: Evaluation,
    *,
    image_px: tuple[int, int],
    pixels: Pixels,
    device: torch.device,
    rerank: bool = True,
    rerank_image_to_text: bool = False,
    precision: Literal["fp32", "bf16"] = "fp32",
    workers: int = 0,
) -> Evaluated:
    """Every process of the default group calls this and gets the same result.

    `rerank` re-ranks `config.rerank_k` images per caption, where the method has a matcher; `rerank_image_to_text` as many
    captions per image, as ALBEF. encoder: one that looks for no attribute chunks; they play no part in retrieval, and
    finding them is slow. Raises ValueError: no query has a match, a number is NaN, an image cannot be read.
    """
    ranks = Ranks.current()
    matcher = _matcher(method, config.rerank_k if rerank else 0, ranks)
    num_candidates = config.rerank_k if matcher is not None else 0
    rule = Rule(
        tail=config.tail,
        score=config.score,
        similarity_weight=config.similarity_weight,
        processes=config.score_processes,
    )
    started = time.perf_counter()
    captions, num_cut = _all_captions(evaluation_set, encoder)
    with _evaluating(method):
        with _autocast(device, precision):
            gallery = embed_gallery(
                method,
                evaluation_set,
                ranks=ranks,
                device=device,
                image_px=image_px,
                pixels=pixels,
                batch_images=config.batch_images,
                workers=workers,
                keep_tokens=num_candidates > 0,
            )
            embedded = embed_queries(
                method, captions, ranks=ranks, batch_captions=config.batch_captions, keep_hidden=num_candidates > 0
            )
        embed_s = time.perf_counter() - started
        text_to_image, image_to_text = _both_directions(
            embedded.feature_QE,
            gallery.feature_GE,
            evaluation_set,
            _candidate_scorer(matcher, gallery, captions, embedded, ranks=ranks, precision=precision),
            ranks=ranks,
            num_images=num_candidates,
            num_captions=num_candidates if rerank_image_to_text else 0,
            rule=rule,
        )
    if ranks.rank == 0 and (reranked := text_to_image.reranked) is not None:
        logger.info(
            "text to image by similarity: %s; the best %d re-ranked: %s",
            _in_words(text_to_image.coarse),
            text_to_image.num_candidates,
            _in_words(reranked),
        )
    return Evaluated(
        text_to_image=text_to_image,
        image_to_text=image_to_text,
        rule=rule,
        num_identities=len(np.unique(evaluation_set.gallery_identity_G)),
        num_images=evaluation_set.num_gallery,
        num_captions=evaluation_set.num_queries,
        num_cut_captions=num_cut,
        num_processes=ranks.size,
        embed_s=embed_s,
        rank_s=time.perf_counter() - started - embed_s,
    )


def _in_words(metrics: Metrics) -> str:
    return f"rank-1 {metrics.rank_1:.2f}, mAP {metrics.mAP:.2f}"


def _matcher(method: Method, rerank_k: int, ranks: Ranks) -> Matcher | None:
    """Who re-ranks; None = nobody is asked to, or the method scores no pairs, which is said."""
    if not rerank_k:
        return None
    matcher = method.matcher()
    if matcher is None and ranks.rank == 0:
        logger.warning(
            "%s has no matcher that could re-rank %d images of a caption: they are ranked by similarity alone",
            type(method).__name__,
            rerank_k,
        )
    return matcher


def _candidate_scorer(
    matcher: Matcher | None,
    gallery: Gallery,
    captions: Captions,
    embedded: EmbeddedCaptions,
    *,
    ranks: Ranks,
    precision: Literal["fp32", "bf16"],
) -> Callable[[Tensor, Tensor], Tensor]:
    """A function from image rows (A, K) and caption rows (A, K) to their matching scores (A, K)."""

    def match(image_AK: Tensor, caption_AK: Tensor) -> Tensor:
        assert matcher is not None, "without a matcher there are no candidates"
        with _autocast(image_AK.device, precision):
            return candidate_scores(
                matcher,
                image_AK=image_AK,
                caption_AK=caption_AK,
                gallery=gallery,
                captions=captions,
                embedded=embedded,
                ranks=ranks,
            )

    return match


def _both_directions(
    caption_QE: Tensor,
    image_GE: Tensor,
    evaluation_set: EvaluationSet,
    match: Callable[[Tensor, Tensor], Tensor],
    *,
    ranks: Ranks,
    num_images: int,
    num_captions: int,
    rule: Rule,
) -> tuple[Direction, Direction]:
    """Text to image with `num_images` candidates of each caption, image to text with `num_captions` of each image."""
    image_identity_G = torch.as_tensor(evaluation_set.gallery_identity_G, device=image_GE.device)
    caption_identity_Q = torch.as_tensor(evaluation_set.query_identity_Q, device=image_GE.device)
    text_to_image = rank_direction(
        caption_QE,
        image_GE,
        caption_identity_Q,
        image_identity_G,
        ranks=ranks,
        num_candidates=num_images,
        rule=rule,
        match=lambda image_QK: match(image_QK, _row_numbers(image_QK)),
    )
    image_to_text = rank_direction(
        image_GE,
        caption_QE,
        image_identity_G,
        caption_identity_Q,
        ranks=ranks,
        num_candidates=num_captions,
        rule=rule,
        match=lambda caption_GK: match(_row_numbers(caption_GK), caption_GK),
    )
    return text_to_image, image_to_text


def _row_numbers(table_AK: Tensor) -> Tensor:
    """The row of each entry, in the table's shape."""
    return torch.arange(len(table_AK), device=table_AK.device)[:, None].expand_as(table_AK)


def _all_captions(evaluation_set: EvaluationSet, encoder: CaptionEncoder) -> tuple[Captions, int]:
    """Every query, and how many of them were cut at the cap of words or of tokens."""
    queries = range(evaluation_set.num_queries)
    captions = [evaluation_set.query_caption(query) for query in queries]
    encoded = encoder.encode_many(captions, [evaluation_set.query_key(query) for query in queries])
    return make_captions(encoded), sum(caption.is_cut for caption in encoded)


def _autocast(device: torch.device, precision: Literal["fp32", "bf16"]) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def _evaluating(method: Method) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the method is in the mode it was in."""
    was_training = method.training
    method.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        method.train(was_training)


def announce_ranking(run: Run) -> None:
    """Say once that the run asks for re-ranking and that its method scores no pairs to re-rank by."""
    if run.evaluation.rerank_k and not run.needs.matcher:
        logger.warning(
            "%s scores no single pairs of image and caption, so evaluation.rerank_k %d re-ranks nothing: images are ranked"
            " by similarity alone (evaluation.rerank_k 0 asks for the same)",
            type(run.method).__name__,
            run.evaluation.rerank_k,
        )
