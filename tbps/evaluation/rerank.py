"""Re-ranking: the matching head scores the best images of every caption, block of images by block of images.

Shapes: Q captions, I images of P tokens, M pairs.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from tbps.methods.albef.family import AlbefFamily
from tbps.methods.albef.pair_scores import match_pairs, prepare_captions
from tbps.text.token_batch import Captions

# Images whose keys and values are held at once: few on a CPU (cache), more on a GPU (kernel size).
BLOCK_IMAGES = {"cpu": 2, "cuda": 16}


@torch.no_grad()
def rerank_scores(
    method: AlbefFamily,
    tokens_IPD: Tensor,
    captions: Captions,
    query_hidden: Tensor | None,
    image_row_M: Tensor,
    caption_row_M: Tensor,
    *,
    block_images: int = 0,
) -> Tensor:
    """Raw matched logit of every (image, caption) pair: (M,) float32 on the host, in the order given.

    tokens_IPD: encoder output of the images, on any device; captions: all queries; query_hidden: their packed text states
    (`EmbeddedCaptions.hidden_ND`); image_row_M, caption_row_M (M,) int64 rows. Blocks start at multiples of `block_images`
    (0 = by device), so a process that owns whole blocks computes the same bits as one that owns all.
    """
    image_M, caption_M = image_row_M.cpu().numpy(), caption_row_M.cpu().numpy()
    block_images = block_images or BLOCK_IMAGES[method.device.type]
    text = method.online.text_encoder
    prepared = prepare_captions(text, method.pack_captions(captions), query_hidden)
    order = np.argsort(image_M, kind="stable")
    edges = np.searchsorted(image_M[order], np.arange(0, len(tokens_IPD) + block_images, block_images))
    scores = torch.empty(len(image_M), device=method.device)
    for block, (start, end) in enumerate(itertools.pairwise(edges)):
        if start == end:
            continue
        pairs = order[start:end]
        used, local_M = np.unique(image_M[pairs], return_inverse=True)
        first = block * block_images
        image_IPD = tokens_IPD[first : first + block_images].to(method.device, non_blocking=True)
        if len(used) < len(image_IPD):
            image_IPD = image_IPD[torch.from_numpy(used - first).to(method.device)]
        scores[torch.from_numpy(pairs).to(method.device)] = match_pairs(
            text,
            method.itm_head,
            captions=prepared,
            image_IPD=image_IPD,
            image_M=local_M,
            caption_M=caption_M[pairs],
        )
    return scores.cpu()
