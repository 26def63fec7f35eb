"""Some pairs of a split, read as a method reads them, for what a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tbps.config.data import Pixels
from tbps.data.images import decode, resize
from tbps.data.pairs import EvaluationSet
from tbps.data.views import normalise_pixels
from tbps.text.captions import CaptionEncoder, make_captions
from tbps.text.token_batch import Captions


@dataclass(kw_only=True)
class ShownPairs:
    """B queries, each with the image it was written for."""

    keys: list[str]
    """Pair keys."""
    image_keys: list[str]
    texts: list[str]
    """Captions as annotated."""
    captions: Captions
    pixels_BCHW: Tensor
    """(B, 3, H, W) uint8, resized as for training."""
    pixels: Pixels
    """How they become the numbers that the method reads."""

    def images(self, device: torch.device) -> Tensor:
        """(B, 3, H, W) float32 on `device`, as the method reads them."""
        return normalise_pixels(self.pixels_BCHW.to(device), self.pixels)


def spread_queries(evaluation_set: EvaluationSet, number: int) -> list[int]:
    """At most `number` different queries, evenly spread over the split."""
    last = evaluation_set.num_queries - 1
    spread: list[int] = np.linspace(0, last, min(number, last + 1)).astype(int).tolist()
    return spread


def read_pairs(
    evaluation_set: EvaluationSet,
    encoder: CaptionEncoder,
    queries: Sequence[int],
    *,
    image_px: tuple[int, int],
    pixels: Pixels,
) -> ShownPairs:
    """Decode and encode. ValueError names an image or a caption that cannot be read."""
    images = [int(evaluation_set.query_image_Q[query]) for query in queries]
    keys = [evaluation_set.query_key(query) for query in queries]
    image_keys = [evaluation_set.gallery_key(image) for image in images]
    texts = [evaluation_set.query_caption(query) for query in queries]
    resized = [
        resize(decode(evaluation_set.gallery_bytes(image), key=key), image_px=image_px, interpolation=pixels.interpolation)
        for image, key in zip(images, image_keys, strict=True)
    ]
    return ShownPairs(
        keys=keys,
        image_keys=image_keys,
        texts=texts,
        captions=make_captions(encoder.encode_many(texts, keys)),
        pixels_BCHW=torch.stack(resized),
        pixels=pixels,
    )


def text_of(pieces: Sequence[str]) -> str:
    """Word pieces as words."""
    return "".join(piece[2:] if piece.startswith("##") else f" {piece}" for piece in pieces).strip()
