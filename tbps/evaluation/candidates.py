"""Matching scores of every query's candidates, image by image: each process scores the images whose tokens it holds.

Shapes: A queries, K candidates of each, M pairs of this process; P image tokens, D width.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tbps.evaluation.embedding import Gallery
from tbps.evaluation.ranks import Ranks
from tbps.evaluation.rerank import rerank_scores
from tbps.methods.method import EmbeddedCaptions, Matcher
from tbps.nn.packing import upload
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
    # On the host, which looks at every pair anyway, after one copy.
    image_M, caption_M = torch.stack([image_AK.flatten(), caption_AK.flatten()]).cpu().numpy()
    order_M = np.argsort(image_M, kind="stable")
    image_M, caption_M = image_M[order_M], caption_M[order_M]
    starts = np.searchsorted(image_M, [0, *(share.stop for share in gallery.shares)]).tolist()
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
            torch.from_numpy(image_M[own] - first_row),
            torch.from_numpy(caption_M[own]),
            # Every share starts at a multiple of it, so blocks are the same for any number of processes.
            block_images=math.gcd(gallery.batch_images, matcher.block_images),
        )
    all_M = ranks.gather(score_M.to(device), counts)
    (place_M,) = upload([order_M], device)
    return torch.empty_like(all_M).scatter_(0, place_M, all_M).view(image_AK.shape)
