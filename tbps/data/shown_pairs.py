"""Some pairs of a split, read as a method reads them, for what a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
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


@dataclass(frozen=True, kw_only=True)
class ShownSplit:
    """A split of which a method shows something in the report: its pairs, read as the method reads them."""

    evaluation_set: EvaluationSet
    encoder: CaptionEncoder
    """Marks what the method's `needs` ask for in reports."""
    image_px: tuple[int, int]
    """Height and width that images are resized to."""
    pixels: Pixels
    """How images become the numbers that the method reads."""

    def spread(self, number: int) -> list[int]:
        """At most `number` different queries, evenly spread over the split."""
        last = self.evaluation_set.num_queries - 1
        spread: list[int] = np.linspace(0, last, min(number, last + 1)).astype(int).tolist()
        return spread

    def read(self, queries: Sequence[int]) -> ShownPairs:
        """Decode and encode. ValueError names an image or a caption that cannot be read."""
        split = self.evaluation_set
        images = [int(split.query_image_Q[query]) for query in queries]
        keys = [split.query_key(query) for query in queries]
        texts = [split.query_caption(query) for query in queries]
        resized = [
            resize(self._image(image), image_px=self.image_px, interpolation=self.pixels.interpolation) for image in images
        ]
        return ShownPairs(
            keys=keys,
            image_keys=[split.gallery_key(image) for image in images],
            texts=texts,
            captions=make_captions(self.encoder.encode_many(texts, keys)),
            pixels_BCHW=torch.stack(resized),
            pixels=self.pixels,
        )

    def picture(self, query: int) -> NDArray[np.uint8]:
        """The image that the query was written for, as it was stored: (height, width, 3) RGB."""
        return self._image(int(self.evaluation_set.query_image_Q[query]))

    def _image(self, image: int) -> NDArray[np.uint8]:
        return decode(self.evaluation_set.gallery_bytes(image), key=self.evaluation_set.gallery_key(image))
