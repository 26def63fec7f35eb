"""The rows of the whole global batch, for a loss that contrasts every pair with every other one.

A step's batch may be shared out over processes and micro-batches; each share computes the same loss of all rows, with
gradients through its own rows alone. The loop averages over the shares, so a share's own rows carry their gradient times
the number of shares: the average is then the gradient of the one loss of the whole batch.

Shapes: B pairs of this share, G pairs of the global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Rows = Mapping[str, Tensor]
"""Named tensors with a row for each pair: features, or numbers such as how many words of its caption are masked."""
_IDENTITY = "identity, as every scope gathers it"


class ContrastScope:
    """What a method asks for the rows of the whole batch. The default: the batch at hand is the whole one."""

    def __init__(
        self,
        identity_B: Tensor,
        *,
        shares: int = 1,
        first_row: int = 0,
        gather: Callable[[Rows], Rows] = dict,
        made: Rows | None = None,
    ) -> None:
        """gather: rows of this share -> those of all shares, in order. made: what it gave, where a pass before this one made
        the rows of all shares; nothing is gathered then.
        """
        self.identity_B = identity_B
        self.shares = shares
        """In how many parts the batch is computed: processes times micro-batches. A sum over own items, divided by the whole
        batch's count, is multiplied by it, because the loop averages over the shares."""
        self.first_row = first_row
        """Row of this share's first pair in the whole batch."""
        self._gather, self._made = gather, made

    def whole(self, rows: Rows) -> dict[str, Tensor]:
        """The rows of all pairs of the global batch, in its order: own ones with gradient, others as constants.

        A loss made of them must be the same on all shares: of all rows, not of own ones against all. ValueError: a tensor
        without a row for each pair, or that `contrast_rows` did not make.
        """
        for name, own in rows.items():
            if len(own) != len(self.identity_B):
                raise ValueError(
                    f"scope.whole was given {len(own)} rows of {name!r}, expected one for each of the"
                    f" {len(self.identity_B)} pairs of the batch"
                )
        if self.shares == 1:
            return dict(rows)
        whole = self._whole_constants({name: own.detach() for name, own in rows.items()})
        return {name: self._with_own(whole[name], own) for name, own in rows.items()}

    @property
    def identity_G(self) -> Tensor:
        """(G,) int64: identities of the whole batch, in the order of `whole`."""
        return self._whole_constants({})[_IDENTITY] if self.shares > 1 else self.identity_B

    def _whole_constants(self, rows: Rows) -> Rows:
        if self._made is None:
            return self._gather(with_identity(rows, self.identity_B))
        if unknown := sorted(rows.keys() - self._made.keys()):
            raise ValueError(
                f"scope.whole was asked for {', '.join(map(repr, unknown))}, expected rows that contrast_rows returns"
                f" ({', '.join(map(repr, sorted(self._made.keys() - {_IDENTITY})))}): return them there, too"
            )
        return self._made

    def _with_own(self, whole_G: Tensor, own_B: Tensor) -> Tensor:
        end = self.first_row + len(own_B)
        live = _scale_gradient(own_B, self.shares)
        return torch.cat([whole_G[: self.first_row], live, whole_G[end:]])


def with_identity(rows: Rows, identity_B: Tensor) -> dict[str, Tensor]:
    """The rows, and the identities that every scope gathers with them."""
    return {**rows, _IDENTITY: identity_B}


class _ScaleGradient(torch.autograd.Function):
    """x, whose gradient is multiplied."""

    @staticmethod
    def forward(context: Any, x: Tensor, factor: int) -> Tensor:  # type: ignore[override]
        context.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * context.factor, None


def _scale_gradient(x: Tensor, factor: int) -> Tensor:
    scaled: Tensor = _ScaleGradient.apply(x, factor) if x.requires_grad else x  # type: ignore[no-untyped-call]
    return scaled
