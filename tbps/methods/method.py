"""What the loop, the evaluator and the report ask of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tbps.data.batch import Batch, Draws
from tbps.nn.packing import Index
from tbps.text.token_batch import Captions


@dataclass(kw_only=True)
class EmbeddedImages:
    """I images: what ranking and matching need of them."""

    feature_IE: Tensor
    """(I, E) unit rows."""
    tokens_IPD: Tensor | None = None
    """(I, P, D): P vectors of each image, which the method's matcher reads; None where the method has no matcher."""


@dataclass(kw_only=True)
class EmbeddedCaptions:
    """Q captions: what ranking and matching need of them."""

    feature_QE: Tensor
    """(Q, E) unit rows."""
    hidden_ND: Tensor | None = None
    """(N, D) text states of all tokens, caption after caption without padding, N = sum of the captions' lengths; None where
    the method's matcher starts from token ids, or there is none."""


class PairScorer(Protocol):
    """Scores pairs of an image and one of the captions that it was prepared for."""

    def __call__(self, *, image_IPD: Tensor, image_M: Index, caption_M: Index) -> Tensor:
        """Matching score of each of M pairs, higher = matches better: (M,) float32, in the order given.

        image_IPD: `EmbeddedImages.tokens_IPD` of some images, on the matcher's device; image_M: rows of it, every image at
        least once; caption_M: rows of the prepared captions.
        """


class Matcher(Protocol):
    """How a method scores single pairs of image and caption: the best images of a caption are re-ranked by it.

    It is asked in evaluation mode, without gradients, under the run's autocast. A score is equal to the last bit whatever
    other pairs are scored, as long as the images of a call start at a multiple of `block_images`.
    """

    @property
    def device(self) -> torch.device:
        """Where scores are computed."""

    @property
    def block_images(self) -> int:
        """Images that are scored in one call at most; what a matcher holds of them at once sets the bound."""

    def prepare(self, captions: Captions, hidden_ND: Tensor | None) -> PairScorer:
        """Compute of all captions, once, what needs no image; hidden_ND: their `EmbeddedCaptions.hidden_ND`."""


class Method(Protocol):
    """One published system. A `torch.nn.Module` with these members; every loss is made inside `forward`."""

    weights: Mapping[str, float]
    """Weight of each loss in the sum that is minimised, by the names that `forward` returns."""

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Named, unweighted scalar losses: each a mean over the groups of the batch.

        Units are dropped by tbps/nn/dropout.py: torch's own dropout depends on how the batch is shared out.
        """

    def untrained(self, *, reranks: bool) -> list[str]:
        """Parameters that are read and that no loss with a weight moves: weights to start from must hold them.

        reranks: the matching head will score.
        """

    def advance_momentum(self) -> None:
        """Move the momentum encoder one step towards the online weights (once before the first step of a run)."""

    def after_step(self) -> None:
        """Once per optimiser step, after it: queue the features of the whole global batch, advance the momentum encoder."""

    def first_step_in_words(self) -> str:
        """What a reader of the log should know of the first step since the start; empty where there is nothing."""

    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        """Online encoder, evaluation mode."""

    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        """Online encoder, evaluation mode; no image is seen."""

    def matcher(self) -> Matcher | None:
        """How single pairs are scored; None = it ranks by similarity alone, and its `needs` say `matcher=False`."""


class ContrastsBatch(Method, Protocol):
    """A method whose `needs` say `contrast="batch"`: its loss is of all pairs of the global batch, by `batch.scope.whole`.

    Each share of the batch returns that one loss; a mean over items of which pairs have different numbers is the own sum
    divided by the whole batch's count, times `batch.scope.shares`.
    """

    def contrast_rows(self, batch: Batch, draws: Draws) -> Mapping[str, Tensor]:
        """The rows, one for each pair, that `forward` gives to `batch.scope.whole`; only accumulation needs this.

        It is called without gradients for each micro-batch of a step, which `forward` then sees again. So `forward` makes
        the same rows before anything else that drops units or draws, and this leaves nothing behind.
        """
