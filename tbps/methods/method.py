"""What the loop, the evaluator and the report ask of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tbps.data.batch import Batch, Draws
from tbps.data.draws import DrawSpec
from tbps.text.token_batch import Captions


@dataclass(kw_only=True)
class EmbeddedImages:
    """I images: what ranking and matching need of them."""

    feature_IE: Tensor
    """(I, E) unit rows."""
    tokens_IPD: Tensor
    """(I, P, D) encoder output, [CLS] first."""


@dataclass(kw_only=True)
class EmbeddedCaptions:
    """Q captions: what ranking and matching need of them."""

    feature_QE: Tensor
    """(Q, E) unit rows."""
    hidden_ND: Tensor | None
    """(N, D) packed text states, N = sum of the captions' lengths, in order; None where matching starts from ids."""


class Method(Protocol):
    """One published system. A `torch.nn.Module` with these members; every loss is made inside `forward`."""

    weights: Mapping[str, float]
    """Weight of each loss in the sum that is minimised, by the names that `forward` returns."""
    draw_spec: DrawSpec

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
