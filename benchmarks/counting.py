"""What a step costs besides time: host syncs, operations, floating-point work, memory."""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

_READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")


def _sdpa(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _sdpa_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


# torch's counter knows the fused attention of GPUs only
_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_backward,
}


class OperationCount(TorchDispatchMode):
    """Counts operations that are no views, and those that make the host wait where the device is a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.syncs = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.operations += not func.is_view
        self.syncs += _waits(func.overloadpacket.__name__, args)
        return func(*args, **(kwargs or {}))


def _waits(name: str, args: tuple[Any, ...]) -> bool:
    """Reads of values; boolean-mask indexing, which counts the mask (writing one value through a mask does not)."""
    if name in _READS:
        return True
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    masked = any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])
    return masked and (name == "index" or args[2].numel() > 1)


class _WholeStep(nullcontext[None]):
    """In place of torch's tracker of modules, which fails on trained modules that are called without gradients."""

    parents: ClassVar[set[str]] = {"Global"}


@dataclass(kw_only=True)
class Count:
    """Of one step, forward and backward."""

    syncs: int
    operations: int
    gflop: float


def count(step: Callable[[], Any]) -> Count:
    """Run `step` once and count."""
    operations, flops = OperationCount(), FlopCounterMode(display=False, custom_mapping=_ON_CPU)
    flops.mod_tracker = _WholeStep()
    with flops, operations:
        step()
    return Count(syncs=operations.syncs, operations=operations.operations, gflop=flops.get_total_flops() / 1e9)


@dataclass(kw_only=True)
class Memory:
    """Of one step, in MiB."""

    peak: float
    """Largest resident memory during the step less that before it: activations, gradients, temporaries."""
    saved: float
    """Tensors kept for backward, parameters not counted; of a checkpointed block only what autograd itself keeps."""


def measure_memory(forward: Callable[[], Tensor], weights: Iterable[Tensor]) -> Memory:
    """Run forward and backward in a forked child, so that every variant starts from the same memory.

    forward returns the loss; weights: parameters and buffers, which are kept whether there is a step or not.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, struct.pack("dd", *_peak_and_saved(forward, weights)))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    if os.waitpid(child, 0)[1] or len(answer) != 16:
        raise RuntimeError("the step failed in the process that measures its memory; see its message above")
    peak, saved = struct.unpack("dd", answer)
    return Memory(peak=peak, saved=saved)


def _peak_and_saved(forward: Callable[[], Tensor], weights: Iterable[Tensor]) -> tuple[float, float]:
    static = {weight.untyped_storage().data_ptr() for weight in weights}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in static:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()
    loss.backward()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) / 1024, sum(kept.values()) / 2**20
