"""What a step costs, noted operation by operation: bytes that are alive, and floating-point operations by part.

A tensor's bytes are those of its storage, which views share; they count from the operation that makes it until nobody holds
it any more.
"""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Kind = Literal["trained", "frozen", "momentum", "buffer", "optimiser", "gradient", "passing"]
"""What a tensor is: weights that are trained, or not; a momentum encoder; a buffer such as a queue; the optimiser's state; a
parameter's gradient; or anything that a step makes and lets go."""
ALIGNMENT = 512
"""Bytes that torch's CUDA allocator hands out at least, and a multiple of which it hands out always."""


def _sdpa(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _sdpa_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


_FLOPS: dict[Any, Any] = {
    **flop_registry,
    # torch's counter knows the fused attention of GPUs only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *args, out_val=None, **kw: _sdpa(*args, **kw),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *args, out_val=None, **kw: _sdpa_backward(
        *args, **kw
    ),
}


def flops_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """FLOPs of an operation that gave `out`; None where it is not one of those that are counted."""
    formula = _FLOPS.get(func.overloadpacket)
    return None if formula is None else int(formula(*args, **kwargs, out_val=out))


class Tally:
    """Live bytes, their peak, and FLOPs by part."""

    def __init__(self, *, alignment: int = 1) -> None:
        """alignment: the multiple of bytes that an allocator rounds each tensor up to."""
        self.alignment = alignment
        self.part = ""
        """Part of the method that computes now."""
        self.flops: Counter[str] = Counter()
        """By part, since the last `start`."""
        self.live: Counter[Kind] = Counter()
        """Bytes that are alive, by kind."""
        self.peak = 0
        """Most bytes alive at once since the last `start`."""
        self.passing_peak = 0
        """The same of what a step makes and lets go."""
        self._held: dict[int, tuple[int, Kind, weakref.ref[Any]]] = {}

    def start(self) -> None:
        """Forget peaks and FLOPs; what is alive stays."""
        self.flops.clear()
        self.peak, self.passing_peak = self.total, self.live["passing"]

    @property
    def total(self) -> int:
        """Bytes that are alive."""
        return sum(self.live.values())

    def count(self, flops: int) -> None:
        """Note the FLOPs of an operation."""
        self.flops[self.part] += flops

    def hold(self, tensor: Tensor) -> None:
        """Note a tensor that an operation gave, unless its storage is known."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            return
        size = -(-storage.nbytes() // self.alignment) * self.alignment
        self._held[key] = (size, "passing", weakref.ref(storage, lambda _: self._drop(key)))
        self.live["passing"] += size
        self.peak = max(self.peak, self.total)
        self.passing_peak = max(self.passing_peak, self.live["passing"])

    def mark(self, tensor: Tensor, kind: Kind) -> None:
        """Say what a tensor is."""
        self.hold(tensor)
        key = tensor.untyped_storage()._cdata
        size, before, reference = self._held[key]
        self.live[before] -= size
        self.live[kind] += size
        self._held[key] = (size, kind, reference)

    def _drop(self, key: int) -> None:
        size, kind, _ = self._held.pop(key)
        self.live[kind] -= size
