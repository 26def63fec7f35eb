"""Re-ranking: a method's matcher scores the best images of every caption, block of images by block of images.

Shapes: Q captions, I images of P tokens, M pairs.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from tbps.methods.method import Matcher
from tbps.nn.packing import upload
from tbps.text.token_batch import Captions


@torch.no_grad()
def rerank_scores(
    matcher: Matcher,
    tokens_IPD: Tensor,
    captions: Captions,
    hidden_ND: Tensor | None,
    image_row_M: Tensor,
    caption_row_M: Tensor,
    *,
    block_images: int = 0,
) -> Tensor:
    """Matching score of every (image, caption) pair: (M,) float32 on the host, in the order given.

    tokens_IPD: `EmbeddedImages.tokens_IPD` of the images, on any device; captions: all queries, with their
    `EmbeddedCaptions.hidden_ND`; image_row_M, caption_row_M (M,) int64 rows of these. Blocks start at multiples of
    `block_images` (0 = the matcher's own), so a process that owns whole blocks computes the same bits as one that owns all.
    """
    image_M, caption_M = image_row_M.cpu().numpy(), caption_row_M.cpu().numpy()
    block_images, device = block_images or matcher.block_images, matcher.device
    score = matcher.prepare(captions, hidden_ND)
    order = np.argsort(image_M, kind="stable")
    edges = np.searchsorted(image_M[order], np.arange(0, len(tokens_IPD) + block_images, block_images))
    scores = torch.empty(len(image_M), device=device)
    for block, (start, end) in enumerate(itertools.pairwise(edges)):
        if start == end:
            continue
        pairs = order[start:end]
        used, local_M = np.unique(image_M[pairs], return_inverse=True)
        first = block * block_images
        image_IPD = tokens_IPD[first : first + block_images].to(device, non_blocking=True)
        if len(used) < len(image_IPD):
            image_IPD = image_IPD[upload([used - first], device)[0]]
        scores[upload([pairs], device)[0]] = score(image_IPD=image_IPD, image_M=local_M, caption_M=caption_M[pairs])
    return scores.cpu()
