"""What the loop, the evaluator and the report ask of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tbps.data.batch import Batch, Draws
from tbps.data.shown_pairs import ShownSplit
from tbps.methods.exhibit import Exhibit
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

    It is asked in evaluation mode, without gradients, under the run's autocast, for all pairs of a block of images at once;
    blocks start at multiples of `block_images`, so a score is equal to the last bit for any number of processes.
    """

    @property
    def device(self) -> torch.device:
        """Where scores are computed."""

    @property
    def block_images(self) -> int:
        """Images that are scored in one call at most; what a matcher holds of them at once sets the bound."""

    def prepare(self, captions: Captions, hidden_ND: Tensor | None) -> PairScorer:
        """Compute of all captions, once, what needs no image; hidden_ND: their `EmbeddedCaptions.hidden_ND`."""


@runtime_checkable
class ExplainingMatcher(Matcher, Protocol):
    """A matcher that can tell which parts of an image it looks at for a word."""

    def token_weights(self, captions: Captions, hidden_ND: Tensor | None, image_IPD: Tensor) -> tuple[Tensor, float]:
        """(N, P) weights of the N tokens of one caption over the P tokens of one image, rows that sum to 1; and the score.

        hidden_ND: the caption's `EmbeddedCaptions.hidden_ND`; image_IPD (1, P, D): the image's `EmbeddedImages.token_BPD`.
        """


LossesAndNumbers = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Named scalars on the device. Plain containers, in which DDP and ZeRO find the tensors."""


class Method(nn.Module):
    """One published system. What most methods do not do has a default here: a method overrides what it does.

    Every loss is made inside `forward`, and whatever communicates between processes too, so that DDP and ZeRO can wrap it.
    """

    encoders: ClassVar[tuple[str, ...]] = ()
    """Dotted names of its encoders: what low-rank adapters freeze and sit on. All else is a head, and is trained whole."""
    unfrozen: tuple[str, ...] = ()
    """Dotted names of parameters of its encoders that are trained beside low-rank adapters."""
    copies: ClassVar[Mapping[str, str]] = {}
    """Dotted name of each module that is a slow copy of another one (a momentum encoder), and that of the other one. The
    copy may lack parts of it that nothing reads."""

    def __init__(self, *, weights: Mapping[str, float]) -> None:
        """weights: of each loss in the sum that is minimised, by the names that `forward` returns."""
        super().__init__()
        self.weights = weights

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """Unweighted losses, each a mean over the groups of the batch; and numbers for the log, which are never weighed.

        Both are averaged over micro-batches and processes. A loss that is not finite ends the run; a number does not.
        Units are dropped by tbps/nn/dropout.py: torch's own dropout depends on how the batch is shared out.
        """
        raise NotImplementedError(f"{type(self).__name__} has no losses: define forward(self, batch, draws)")

    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        """Features of images, for ranking; in evaluation mode."""
        raise NotImplementedError(f"{type(self).__name__} cannot be evaluated: define embed_images(self, image_BCHW)")

    def embed_image_features(self, image_BCHW: Tensor) -> Tensor:
        """(I, E) features of images alone, where no matcher will read tokens; equal to `embed_images` but for rounding."""
        return self.embed_images(image_BCHW).feature_IE

    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        """Features of captions, for ranking; in evaluation mode, no image is seen."""
        raise NotImplementedError(f"{type(self).__name__} cannot be evaluated: define embed_captions(self, captions)")

    def embed_padded(self, token_id_BL: Tensor, length_B: Tensor) -> Tensor:
        """(B, E) unit features of padded captions of `length_B` tokens each, by tensors alone: what ONNX is made of.

        Equal to `embed_captions` but for rounding; ValueError: the method has no such way.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be written as ONNX: it does not define embed_padded(self, token_id_BL, length_B),"
            " which embeds captions without a host; define it, or leave out --onnx"
        )

    def matcher(self) -> Matcher | None:
        """How single pairs are scored; None = it ranks by similarity alone, and its `needs` say `matcher=False`."""
        return None

    def exhibits(self, shown: ShownSplit) -> list[Exhibit]:
        """What it shows of itself in the report, made of pairs of an evaluated split, in evaluation mode; may be empty."""
        return []

    def untrained(self, *, reranks: bool) -> list[str]:
        """Parameters that are read and that no loss with a weight moves: weights to start from must hold them.

        reranks: the matcher will score. Default: all that are frozen.
        """
        return [name for name, parameter in self.named_parameters() if not parameter.requires_grad]

    def before_first_step(self) -> None:
        """Once in a run, before its first step, with the start weights in place; not where a run goes on."""

    def after_step(self) -> None:
        """Once per optimiser step, after it, on every process: momentum encoders and queues move here."""

    def first_step_in_words(self) -> str:
        """What a reader of the log should know of the first step since the start; empty where there is nothing."""
        return ""

    def set_activation_checkpointing(self, on: bool) -> None:
        """Compute blocks again in backward, which saves memory; default: all modules with a switch `checkpointing`."""
        switched = [module for module in self.modules() if hasattr(module, "checkpointing")]
        if on and not switched:
            raise ValueError(
                f"loop.activation_checkpointing is on, and {type(self).__name__} has no blocks that can be computed again;"
                " turn it off"
            )
        for module in switched:
            module.checkpointing = on  # type: ignore[assignment]


@runtime_checkable
class ContrastsBatch(Protocol):
    """Of a method whose `needs` say `contrast="batch"`: its loss is of all pairs of the global batch, by
    `batch.scope.whole`.

    Each share of the batch returns that one loss; a mean over items of which pairs have different numbers is the own sum
    divided by the whole batch's count, times `batch.scope.shares`.
    """

    def contrast_rows(self, batch: Batch, draws: Draws) -> Mapping[str, Tensor]:
        """The rows, one for each pair, that `forward` gives to `batch.scope.whole`; only accumulation needs this.

        It is called without gradients for each micro-batch of a step, which `forward` then sees again. So `forward` makes
        the same rows before anything else that drops units or draws, and this leaves nothing behind.
        """
