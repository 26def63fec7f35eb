"""Embed the gallery and the captions of a split, each process its share, equal to the last bit for any number of them.

Shapes: G gallery images, Q queries, I images of a block, P image tokens, D width, E features, N packed tokens.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tbps.config.data import Pixels
from tbps.data.loader import load_gallery
from tbps.data.pairs import EvaluationSet
from tbps.data.views import normalise_pixels
from tbps.evaluation.ranks import Ranks
from tbps.methods.method import EmbeddedCaptions, Method
from tbps.nn.device_copy import to_device
from tbps.text.token_batch import Captions

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Gallery:
    """Features of all images, and the tokens of those that this process embedded."""

    feature_GE: Tensor
    """(G, E) unit rows, on every process."""
    shares: list[range]
    """Gallery rows of each process: consecutive, each starting at a multiple of `batch_images`."""
    batch_images: int
    tokens_RPD: Tensor | None
    """Tokens of this process's images, on the device or, where that has too little memory, the host; None = not kept."""


def embed_gallery(
    method: Method,
    evaluation_set: EvaluationSet,
    *,
    ranks: Ranks,
    device: torch.device,
    image_px: tuple[int, int],
    pixels: Pixels,
    batch_images: int,
    workers: int,
    keep_tokens: bool,
) -> Gallery:
    """Embed every image once over all processes. ValueError names an image that cannot be read.

    keep_tokens: a matcher will read them. ValueError where the method gives none.
    """
    shares = ranks.shares(evaluation_set.num_gallery, block=batch_images)
    own = shares[ranks.rank]
    # A process without a share embeds the first block and brings none of its rows: it learns their width and type.
    images = own or range(min(batch_images, evaluation_set.num_gallery))
    features: list[Tensor] = []
    tokens_RPD: Tensor | None = None
    done = 0
    loaded = load_gallery(
        evaluation_set, images, image_px=image_px, pixels=pixels, batch_images=batch_images, workers=workers
    )
    for pixels_ICHW in loaded:
        image_ICHW = normalise_pixels(to_device(pixels_ICHW, device), pixels)
        if not keep_tokens:
            features.append(method.embed_image_features(image_ICHW))
            continue
        embedded = method.embed_images(image_ICHW)
        features.append(embedded.feature_IE)
        if own:
            if embedded.tokens_IPD is None:
                raise ValueError(
                    f"{type(method).__name__} has a matcher and its embed_images gives no tokens_IPD, expected what the"
                    " matcher reads of an image; give them, or let matcher() be None"
                )
            if tokens_RPD is None:
                tokens_RPD = token_room(embedded.tokens_IPD, num_images=len(own), free_bytes=_free_bytes(device))
            tokens_RPD[done : done + len(pixels_ICHW)] = embedded.tokens_IPD
            done += len(pixels_ICHW)
    feature_RE = torch.cat(features)[: len(own)]
    return Gallery(
        feature_GE=ranks.gather(feature_RE, [len(share) for share in shares]),
        shares=shares,
        batch_images=batch_images,
        tokens_RPD=tokens_RPD,
    )


def embed_queries(
    method: Method, captions: Captions, *, ranks: Ranks, batch_captions: int, keep_hidden: bool
) -> EmbeddedCaptions:
    """Embed all captions over all processes: features and, with `keep_hidden`, the packed text states on every one."""
    num_captions = len(captions.lengths)
    blocks = ranks.own_blocks(num_captions, block=batch_captions) or [range(min(batch_captions, num_captions))]
    embedded = [method.embed_captions(captions.rows(block)) for block in blocks]
    shares = ranks.shares(num_captions, block=batch_captions)
    counts = [len(share) for share in shares]
    feature_RE = torch.cat([part.feature_QE for part in embedded])[: counts[ranks.rank]]
    hidden_ND = None
    states = [part.hidden_ND for part in embedded if part.hidden_ND is not None]
    if keep_hidden and states:
        tokens = [sum(captions.lengths[share.start : share.stop]) for share in shares]
        hidden_ND = ranks.gather(torch.cat(states)[: tokens[ranks.rank]], tokens)
    return EmbeddedCaptions(feature_QE=ranks.gather(feature_RE, counts), hidden_ND=hidden_ND)


def token_room(tokens_IPD: Tensor, *, num_images: int, free_bytes: int | None) -> Tensor:
    """An empty (num_images, P, D) beside these tokens, or on the host where it would fill over half of `free_bytes`.

    free_bytes: free memory of the tokens' device; None = not limited.
    """
    shape = (num_images, *tokens_IPD.shape[1:])
    needed = math.prod(shape) * tokens_IPD.element_size()
    if free_bytes is None or needed <= free_bytes // 2:
        return tokens_IPD.new_empty(shape)
    logger.warning(
        "image tokens of the gallery need %.1f GB and the device has %.1f GB free: they are kept in host memory"
        " (slower, same numbers)",
        needed / 1e9,
        free_bytes / 1e9,
    )
    return torch.empty(shape, dtype=tokens_IPD.dtype)


def _free_bytes(device: torch.device) -> int | None:
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None
