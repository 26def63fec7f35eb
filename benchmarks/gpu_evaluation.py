"""How fast a GPU embeds images and captions and re-ranks, by the code that evaluates; images are random bytes in memory."""

from __future__ import annotations

from typing import Any

import torch
from real_methods import captions
from real_step import now

from tbps.config.run import Run
from tbps.data.views import normalise_pixels
from tbps.evaluation.rerank import rerank_scores

GALLERY, QUERIES = 3_074, 6_156
"""Images and captions of CUHK-PEDES's test split."""
SHARE = 8
"""One image in so many is scored, and one caption in so many: as many pairs an image as of the whole split."""


@torch.no_grad()
def evaluation_speeds(method: Any, run: Run, device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Images, captions and pairs a second, and from them the seconds for CUHK-PEDES's test split without reading files.

    `pairs_per_s` and `max_pairs_an_image` are 0 where the method does not re-rank.
    """
    method.eval()
    images, queries, k = (6, 8, 4) if quick else (GALLERY // SHARE, QUERIES // SHARE, run.evaluation.rerank_k)
    batch_images = run.evaluation.batch_images
    random = torch.Generator().manual_seed(0)
    pixels_ICHW = torch.randint(0, 256, (images, 3, *run.data.image_px), generator=random, dtype=torch.uint8)
    pixels_ICHW = pixels_ICHW.pin_memory() if device.type == "cuda" else pixels_ICHW
    asked = captions(run.needs.text, queries, seed=5)
    with torch.autocast(device.type, torch.bfloat16, enabled=run.loop.precision == "bf16"):
        tokens, images_s = _timed(lambda: _embed_images(method, run, pixels_ICHW, batch_images, device), device)
        hidden, captions_s = _timed(lambda: _embed_captions(method, run, asked), device)
        pairs_s = 0.0
        if (matcher := method.matcher()) is not None and k:
            # As a trained model's best images: some are asked for by many captions, some by few.
            popularity = torch.distributions.Exponential(1.0).sample((images,))
            image_QK = torch.multinomial(popularity.expand(queries, -1), min(k, images))
            caption_M = torch.arange(queries).repeat_interleave(image_QK.shape[1])
            arguments = (matcher, tokens, asked, hidden, image_QK.flatten(), caption_M)
            _, pairs_s = _timed(lambda: rerank_scores(*arguments), device)
    method.train()
    num_pairs = queries * min(k, images)
    whole_s = images_s / images * GALLERY + captions_s / queries * QUERIES
    return {
        "images_per_s": images / images_s,
        "captions_per_s": queries / captions_s,
        "pairs_per_s": num_pairs / pairs_s if pairs_s else 0.0,
        "cuhk_pedes_s": whole_s + (pairs_s / num_pairs * QUERIES * k if pairs_s else 0.0),
        "images": images,
        "rerank_k": k if pairs_s else 0,
    }


def _timed(work: Any, device: torch.device) -> tuple[Any, float]:
    """Its result, and the seconds of a second call."""
    work()
    began = now(device)
    result = work()
    return result, now(device) - began


def _embed_images(method: Any, run: Run, pixels_ICHW: torch.Tensor, batch_images: int, device: torch.device) -> Any:
    found = []
    for part in pixels_ICHW.split(batch_images):
        embedded = method.embed_images(normalise_pixels(part.to(device, non_blocking=True), run.data.pixels))
        found.append(embedded.feature_IE if embedded.tokens_IPD is None else embedded.tokens_IPD)
    return torch.cat(found)


def _embed_captions(method: Any, run: Run, asked: Any) -> Any:
    batch = run.evaluation.batch_captions
    rows = range(len(asked.lengths))
    parts = [method.embed_captions(asked.rows(rows[first : first + batch])) for first in range(0, len(rows), batch)]
    hidden = [part.hidden_ND for part in parts if part.hidden_ND is not None]
    return torch.cat(hidden) if hidden else None
