"""A method with nothing beside its encoders and losses: what the loop asks of every method, answered."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from tbps.methods.method import Matcher


class PlainMethod(nn.Module):
    """Every parameter is trained by a loss; no momentum encoder, queue, matcher or exhibits. What differs is overridden.

    Left to a subclass: `forward`, `embed_images` and `embed_captions`; see `tbps.methods.method.Method`.
    """

    def __init__(self, *, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = weights

    def untrained(self, *, reranks: bool) -> list[str]:
        """Parameters that no loss trains: none."""
        return []

    def set_activation_checkpointing(self, on: bool) -> None:
        """ValueError where it is asked for: there are no blocks to compute again."""
        if on:
            raise ValueError(
                f"loop.activation_checkpointing is on, and {type(self).__name__} has no blocks that can be computed again;"
                " turn it off"
            )

    def advance_momentum(self) -> None:
        """There is no momentum encoder."""

    def after_step(self) -> None:
        """There is nothing to do after a step."""

    def first_step_in_words(self) -> str:
        """Nothing to say of it."""
        return ""

    def matcher(self) -> Matcher | None:
        """It ranks by similarity alone."""
        return None
