"""Matching scores of every query's candidates, image by image: each process scores the images whose tokens it holds.

Shapes: A queries, K candidates of each, M pairs of this process; P image tokens, D width.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from tbps.evaluation.embedding import Gallery
from tbps.evaluation.ranks import Ranks
from tbps.evaluation.rerank import rerank_scores
from tbps.methods.method import EmbeddedCaptions, Matcher
from tbps.text.token_batch import Captions


def candidate_scores(
    matcher: Matcher,
    *,
    image_AK: Tensor,
    caption_AK: Tensor,
    gallery: Gallery,
    captions: Captions,
    embedded: EmbeddedCaptions,
    ranks: Ranks,
) -> Tensor:
    """The matching score of pair (image_AK[a, k], caption_AK[a, k]): (A, K) float32, the same on every process.

    Pairs are sorted by image, then by place in the table, so a process's pairs are consecutive and an image is scored
    with the same captions in the same order for any number of processes.
    """
    device = image_AK.device
    image_M, order_M = torch.sort(image_AK.flatten(), stable=True)
    caption_M = caption_AK.flatten()[order_M]
    edges = torch.tensor([0, *(share.stop for share in gallery.shares)], device=device)
    starts = torch.searchsorted(image_M, edges).tolist()
    counts = [stop - start for start, stop in pairwise(starts)]
    first_row, start = gallery.shares[ranks.rank].start, starts[ranks.rank]
    own = slice(start, start + counts[ranks.rank])
    score_M = torch.zeros(0)
    if counts[ranks.rank]:
        assert gallery.tokens_RPD is not None
        score_M = rerank_scores(
            matcher,
            gallery.tokens_RPD,
            captions,
            embedded.hidden_ND,
            image_M[own] - first_row,
            caption_M[own],
            # Every share starts at a multiple of it, so blocks are the same for any number of processes.
            block_images=math.gcd(gallery.batch_images, matcher.block_images),
        )
    all_M = ranks.gather(score_M.to(device), counts)
    return torch.empty_like(all_M).scatter_(0, order_M, all_M).view(image_AK.shape)
