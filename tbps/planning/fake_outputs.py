"""What operations on fake tensors give, remembered by what they are given: layers repeat, and so do their operations.

Torch remembers it, too (FakeTensorMode), but to look it up and to make the tensor takes it ten times as long.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

_PLAIN = {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format}
"""Types of arguments that are their value and nothing else."""
_REAL = object()
"""In a key, before what is known of a real tensor."""
Key = tuple[Any, ...]
"""An operation and its arguments: what is known of tensors; of others type and value, since 1, 1.0 and True are equal."""


def key_of(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[FakeTensor], *, real: bool = False
) -> Key | None:
    """None where an argument is anything else: a generator, or a tensor of the host, if not beside a fake one where `real`
    says that both are of one device and the operation changes neither. Fake tensors are put into `given`."""
    key: list[Any] = [func, torch.is_inference_mode_enabled(), *kwargs]
    known = _describe(args, key, given, real) and (not kwargs or _describe(kwargs.values(), key, given, real))
    return tuple(key) if known and (given or _REAL not in key) else None


def _describe(values: Iterable[Any], key: list[Any], given: list[FakeTensor], real: bool) -> bool:
    for value in values:
        kind = type(value)
        if kind is FakeTensor and value.constant is None:
            given.append(value)
            key += _metadata(value)
        elif kind in _PLAIN:
            key += (kind, value)
        elif kind is list or kind is tuple:
            key += (kind, len(value))
            if not _describe(value, key, given, real):
                return False
        elif real and (kind is Tensor or kind is nn.Parameter) and value.dim():  # of no dimensions, it may be a number
            key += (_REAL, value.shape, value.stride(), value.storage_offset(), value.dtype, value.requires_grad)
        else:
            return False
    return True


def _metadata(tensor: FakeTensor) -> tuple[Any, ...]:
    return (
        tensor.shape,
        tensor.stride(),
        tensor.storage_offset(),
        tensor.dtype,
        tensor.fake_device,
        tensor.requires_grad,
        tensor.untyped_storage().nbytes(),
    )


@functools.cache
def remembered_on(device: torch.device) -> dict[Key, Remembered]:
    """What operations gave in this process: one rehearsal repeats another, too."""
    return {}


@dataclass(frozen=True, slots=True)
class _Given:
    """A tensor that the operation is given."""

    place: int

    def make(self, given: list[FakeTensor], attributes: dict[str, Any]) -> FakeTensor:
        return given[self.place]


@dataclass(frozen=True, slots=True)
class _Made:
    """A tensor of its own, or a view of the only one that the operation is given."""

    is_view: bool
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    kind: torch.dtype
    device: torch.device

    def make(self, given: list[FakeTensor], attributes: dict[str, Any]) -> FakeTensor:
        """As FakeTensorMode makes it."""
        with torch._C._DisableTorchDispatch():
            if self.is_view:
                storage: Any = given[0].untyped_storage()
                meta = torch.empty(0, dtype=self.kind, device="meta").set_(storage, self.offset, self.shape, self.stride)
            else:
                meta = torch.empty_strided(self.shape, self.stride, dtype=self.kind, device="meta")
            made = Tensor._make_subclass(FakeTensor, meta, dispatch_device=True, device_for_backend_keys=self.device)
        torch._C._set_throw_on_mutable_data_ptr(made)
        vars(made).update(attributes)
        return made


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an operation gave."""

    outputs: tuple[_Given | _Made | None, ...]
    several: type | None
    """Tuple or list, if that is what it gave."""
    is_view: bool
    flops: int | None
    """None where they are not counted."""

    def make(self, given: list[FakeTensor], attributes: dict[str, Any]) -> tuple[Any, list[FakeTensor]]:
        """What it gives now, and the tensors in it. attributes: what any fake tensor of the device has in Python."""
        ones = [None if output is None else output.make(given, attributes) for output in self.outputs]
        out = ones[0] if self.several is None else self.several(ones)
        return out, [one for one in ones if one is not None]


def remember(
    func: Any, out: Any, given: list[FakeTensor], *, attributes: dict[str, Any], flops: int | None
) -> Remembered | None:
    """None where `out` would not be made again just so: it is a number, say, or its argument in another shape."""
    if func.namespace != "aten" or torch.Tag.inplace_view in func.tags:
        return None
    several = type(out) if isinstance(out, tuple | list) else None
    ones = [out] if several is None else out
    if not all(one is None or type(one) is FakeTensor for one in ones):
        return None
    places = {id(tensor): place for place, tensor in enumerate(given)}
    storages = {_storage(tensor) for tensor in given}
    outputs: list[_Given | _Made | None] = []
    for one in ones:
        is_view = one is not None and id(one) not in places and _storage(one) in storages
        if is_view and len(given) != 1:
            return None
        outputs.append(one if one is None else _Given(places[id(one)]) if id(one) in places else _made(one, is_view))
    remembered = Remembered(tuple(outputs), several, func.is_view, flops)
    again = remembered.make(given, attributes)[1]
    same = all(map(_is_like, again, (one for one in ones if one is not None)))
    return remembered if same else None


def _made(one: FakeTensor, is_view: bool) -> _Made:
    return _Made(is_view, one.shape, one.stride(), int(one.storage_offset()), one.dtype, one.fake_device)


def _storage(tensor: FakeTensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _is_like(again: FakeTensor, one: FakeTensor) -> bool:
    return (
        _metadata(again) == _metadata(one)
        and vars(again) == vars(one)
        and torch._C._dispatch_key_set(again) == torch._C._dispatch_key_set(one)
    )
