"""A trained model that embeds pictures and sentences the way that evaluation does: what `tbps.load` gives.

Shapes: I images, S sentences, E features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tbps.config.data import Pixels
from tbps.data.images import decode, pixels_of, resize_exactly
from tbps.data.views import normalise_pixels
from tbps.methods.method import EmbeddedCaptions, EmbeddedImages, Matcher, Method
from tbps.text.captions import CaptionEncoder, EncodedCaption, make_captions
from tbps.text.token_batch import Captions

Picture = str | Path | Image.Image
"""An image as `embed_images` takes it: a path, or what PIL has opened."""
_BATCH_SENTENCES = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedSentences:
    """S sentences with what the text encoder read of them."""

    encoded: tuple[EncodedCaption, ...]
    """What of each was kept and what was cut."""
    captions: Captions
    """The same as a batch."""
    embedded: EmbeddedCaptions
    """Features (S, E), and the states that a matcher reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchModel:
    """A method in evaluation mode, its tokeniser and its preprocessing.

    It embeds as `tbps evaluate` does: the same cleaning, resizing, normalisation and precision. `embed_text`, `embed_images`
    and `score` take and give what other programs have; the rest is what searching is made of.
    """

    method: Method
    encoder: CaptionEncoder
    """Cleans sentences and cuts them into tokens, as for the queries of an evaluation."""
    image_px: tuple[int, int]
    """Height and width a picture is resized to."""
    pixels: Pixels
    """How pixels become numbers."""
    device: torch.device
    precision: Literal["fp32", "bf16"]
    batch_images: int
    """Images of one forward pass in an evaluation."""
    source: str
    """What it was loaded from, as it was named: a run folder, an exported one, or a name of the hub."""
    weights_sha256: str
    """Of everything that features depend on but preprocessing: equal for the same weights alone."""

    @property
    def matcher(self) -> Matcher | None:
        """How single pairs are scored; None where the method ranks by similarity alone."""
        return self.method.matcher()

    def preprocessing(self) -> dict[str, Any]:
        """What features depend on beside the weights, as JSON holds it."""
        return {
            "image_px": list(self.image_px),
            "mean": list(self.pixels.mean),
            "std": list(self.pixels.std),
            "interpolation": self.pixels.interpolation,
            "precision": self.precision,
        }

    def embed_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """(S, E) unit rows of S sentences; what is beyond the model's cap of words and tokens is not read.

        ValueError names a sentence in which no word is left after cleaning.
        """
        if isinstance(sentences, str):
            raise ValueError(f"sentences is the text {sentences[:40]!r}, expected a list of texts; put it in brackets")
        for number, sentence in enumerate(sentences):
            if not self.encoder.clean(sentence):
                raise ValueError(
                    f"sentence {number} is {sentence[:80]!r}, in which no word is left after cleaning, expected at least"
                    " one; write a description"
                )
        blocks = _blocks(len(sentences), _BATCH_SENTENCES)
        return _rows([self.embed_sentences(sentences[block]).embedded.feature_QE for block in blocks])

    def embed_images(self, images: Sequence[Picture]) -> NDArray[np.float32]:
        """(I, E) unit rows of I images, by path or opened by PIL. ValueError names one that cannot be read."""
        if isinstance(images, str | Path | Image.Image):
            raise ValueError(f"images is {images!r}, expected a list of paths or images; put it in brackets")
        parts = []
        for block in _blocks(len(images), self.batch_images):
            pixels_ICHW = torch.stack([self.resized(image) for image in images[block]])
            parts.append(self.features_of(pixels_ICHW))
        return _rows(parts)

    def score(self, sentences: Sequence[str], images: Sequence[Picture]) -> NDArray[np.float32]:
        """(S, I) similarities, -1 to 1: higher is nearer. Nothing is re-ranked."""
        similarity_SI: NDArray[np.float32] = self.embed_text(sentences) @ self.embed_images(images).T
        return similarity_SI

    def resized(self, image: Picture) -> Tensor:
        """(3, height, width) uint8, as the model reads it. ValueError: the image cannot be read."""
        if isinstance(image, Image.Image):
            pixels_HWC = pixels_of(image)
        else:
            try:
                pixels_HWC = decode(Path(image).read_bytes(), key=str(image))
            except OSError as error:
                raise ValueError(f"image {image} cannot be read ({error.strerror}); expected an image file") from error
        return resize_exactly(pixels_HWC, image_px=self.image_px, interpolation=self.pixels.interpolation)

    def embed_pixels(self, pixels_ICHW: Tensor) -> EmbeddedImages:
        """Unit features, and tokens for a matcher, of resized images: (I, 3, height, width) uint8, on any device."""
        with self.computing():
            on_device = pixels_ICHW.to(self.device, non_blocking=True)
            return self.method.embed_images(normalise_pixels(on_device, self.pixels))

    def features_of(self, pixels_ICHW: Tensor) -> Tensor:
        """(I, E) unit features alone of resized images, as `embed_pixels` has them."""
        with self.computing():
            on_device = pixels_ICHW.to(self.device, non_blocking=True)
            return self.method.embed_image_features(normalise_pixels(on_device, self.pixels))

    def embed_sentences(self, sentences: Sequence[str]) -> EmbeddedSentences:
        """Unit features of at least one sentence. ValueError: a sentence has no word that the tokeniser reads."""
        encoded = tuple(self.encoder.encode(sentence, repr(sentence[:80])) for sentence in sentences)
        captions = make_captions(encoded)
        with self.computing():
            embedded = self.method.embed_captions(captions)
        return EmbeddedSentences(encoded=encoded, captions=captions, embedded=embedded)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Without gradients, in the run's precision."""
        bf16 = self.precision == "bf16"
        with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            yield


def _blocks(number: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, number, size))


def _rows(parts: list[Tensor]) -> NDArray[np.float32]:
    if not parts:
        raise ValueError("nothing to embed: the list is empty, expected at least one entry")
    rows: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
    return rows
