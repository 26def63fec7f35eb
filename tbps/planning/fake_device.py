"""A device on which nothing is computed: shapes, types and bytes are real, numbers are not.

Tensors on it are torch's FakeTensors, tensors of the host are real ones: what a step lays out on the host from lengths and
token ids is computed as always, and what it does on the device is only noted. So a step of real size takes seconds and no
memory, with or without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tbps.planning.backward import Backward
from tbps.planning.tally import Tally
from tbps.planning.waits import Waits, place_here

aten = torch.ops.aten
Guess = Callable[[torch.Size, torch.dtype], Tensor]
"""guess(shape, type): what the host reads where a step asks the device for numbers."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A collective that a step made."""

    operation: str
    """Its name in torch, as "allreduce_"."""
    place: str
    """file:line (function) of the code that asked for it."""
    kind: torch.dtype
    shape: tuple[int, ...]
    """Of the largest tensor that it was given."""
    num_bytes: int
    """Of that tensor."""
    after_backward: bool
    """Whether a parameter had been given its gradient before."""


class FakeDevice:
    """Use as a context: inside, tensors on `device` are fake, and what is done with them is noted in `tally`."""

    def __init__(self, device: torch.device, *, guess: Guess, tally: Tally) -> None:
        self.device, self.tally, self.guess = device, tally, guess
        self.fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.backward = Backward(before=self._before, gradient=self._arrived)
        self.sent: list[Sent] = []
        """Collectives."""
        self.gradients: list[tuple[torch.Size, torch.dtype]] = []
        """Shapes and types of parameters' gradients, in the order in which those were ready."""
        self.operations = 0
        """Operations on the device that are no views."""
        self.waits = Waits()
        """Where the host would wait for the device; of the CPU it waits for nothing."""
        self.parts: list[tuple[int, str]] = []
        """From which autograd node on, by its number, which part computed."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """The context."""
        with ExitStack() as stack:
            stack.enter_context(_card_stands_in(self.waits))
            stack.enter_context(self.backward.saving())
            stack.enter_context(self.fake_mode)
            stack.enter_context(_Dispatch(self))
            stack.enter_context(_Functions(self))
            yield

    def to_device(self, tensor: Tensor) -> Tensor:
        """A fake tensor on the device, like a real one."""
        return self.fake_mode.fake_tensor_converter.from_meta_and_device(self.fake_mode, tensor.to("meta"), self.device)

    def read(self, shape: torch.Size, kind: torch.dtype) -> Tensor:
        """What stands for numbers of the device where the host reads them."""
        with unset_fake_temporarily(), torch._C.DisableTorchFunction():
            return self.guess(shape, kind)

    def enter_part(self, part: str) -> None:
        """What follows is computed by that part, and its backward pass too."""
        self.tally.part = part
        self.parts.append((torch._C._autograd._get_sequence_nr(), part))

    def _arrived(self, gradient: Tensor) -> None:
        self.tally.mark(gradient, "gradient")
        self.gradients.append((gradient.shape, gradient.dtype))

    def _before(self, node: Any) -> None:
        if hasattr(node, "variable"):
            return
        number = node._sequence_nr()
        low, high = 0, len(self.parts)
        while low < high:
            middle = (low + high) // 2
            if self.parts[middle][0] <= number:
                low = middle + 1
            else:
                high = middle
        self.tally.part = self.parts[low - 1][1] if low else ""


class _Dispatch(TorchDispatchMode):
    """Sees every operation below autograd."""

    def __init__(self, owner: FakeDevice) -> None:
        super().__init__()
        self.owner = owner

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # asked for thousands of times
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        owner = self.owner
        fakes = any(isinstance(one, FakeTensor) for one in tree_iter((args, kwargs)))
        target = kwargs.get("device")
        on_device = target is not None and torch.device(target).type == owner.device.type != "cpu"
        if not fakes and not on_device:
            with unset_fake_temporarily():
                out = func(*args, **kwargs)
            if owner.device.type == "cpu":
                self._note(func, args, kwargs, out)
            return out
        if owner.device.type != "cpu":
            owner.waits.operation(func, args, kwargs)
        if fakes and (read := self._read(func, args, kwargs)) is not None:
            return read
        out = func(*args, **kwargs)
        self._note(func, args, kwargs, out)
        return out

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if func.namespace == "c10d":
            self.owner.sent.append(_sent(func.overloadpacket.__name__, args, after=bool(self.owner.gradients)))
            return
        self.owner.operations += not func.is_view
        for one in tree_iter(out):
            if isinstance(one, Tensor):
                self.owner.tally.hold(one)
        self.owner.tally.count(func, args, kwargs, out)

    def _read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the host reads from the device; None where this operation reads nothing."""
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            with unset_fake_temporarily():
                return args[0].copy_(self.owner.read(args[1].shape, args[1].dtype))
        if func is aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 0.0 if args[0].dtype.is_floating_point else 0
        to_host = func is aten._to_copy.default and torch.device(kwargs.get("device") or self.owner.device).type == "cpu"
        if to_host and self.owner.device.type != "cpu":
            return self.owner.read(args[0].shape, kwargs.get("dtype") or args[0].dtype)
        return None


class _Functions(TorchFunctionMode):
    """Sees calls above autograd: those that a GPU answers in another way than the operations they are made of."""

    def __init__(self, owner: FakeDevice) -> None:
        super().__init__()
        self.owner = owner

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.backward:
            with self:  # switched off while it answers, and blocks that are computed again need it
                return self.owner.backward.run(args[0])
        if func is torch.autograd.grad:
            (output,), inputs = args
            with self:
                return self.owner.backward.grad(output, inputs, keep=bool(kwargs.get("retain_graph")))
        if func is torch.Tensor.__deepcopy__ and isinstance(args[0], FakeTensor):
            return _copy(*args)
        if func is torch.Tensor.pin_memory:
            return self.owner.waits.pin(args[0])
        if func is torch.Tensor.numpy and isinstance(args[0], FakeTensor):
            if self.owner.device.type != "cpu":
                raise TypeError("can't convert a tensor of the device to numpy: copy it to the host first (HostCopy)")
            return self.owner.read(args[0].shape, args[0].dtype).numpy()
        if kwargs.get("pin_memory"):
            return self.owner.waits.pin(func(*args, **{**kwargs, "pin_memory": False}))
        if func is F.scaled_dot_product_attention and self.owner.device.type != "cpu":
            return _fused(*args, **kwargs)
        return func(*args, **kwargs)


def _sent(operation: str, args: Any, *, after: bool) -> Sent:
    tensors = [one for one in tree_iter(args) if isinstance(one, Tensor)]
    largest = max(tensors, key=lambda one: one.numel() * one.element_size())
    return Sent(
        operation=operation,
        place=place_here(),
        kind=largest.dtype,
        shape=tuple(largest.shape),
        num_bytes=largest.numel() * largest.element_size(),
        after_backward=after,
    )


def _copy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """As deepcopy of a real one: torch would copy the device too."""
    copied = memo.get(id(tensor))
    if copied is None:
        copied = tensor.detach().clone()
        copied = nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
        memo[id(tensor)] = copied
    return copied


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Attention by the kernel that a GPU takes: flash for half precision without a mask, else memory-efficient.

    Without a card torch chooses the plain products, whose probabilities a GPU never keeps.
    """
    if torch.is_autocast_enabled("cuda"):
        kind = torch.get_autocast_dtype("cuda")
        query, key, value = (tensor.to(kind) for tensor in (query, key, value))
        attn_mask = None if attn_mask is None else attn_mask.to(kind)
    if attn_mask is None and query.dtype in (torch.float16, torch.bfloat16):
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal)[0]
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    bias = None if attn_mask is None else attn_mask.expand(*query.shape[:3], key.shape[2])
    return aten._scaled_dot_product_efficient_attention(query, key, value, bias, trains, dropout_p, is_causal)[0]


def _take_data(parameter: Tensor, changed: Tensor) -> None:
    """What `nn.Module.to` does to a real parameter; a fake one it would swap, which torch refuses of those that it knows."""
    parameter.data = changed.data


FREE_BYTES = 64 << 30
"""Memory of a device that is not there."""


def _stands_in(waits: Waits) -> tuple[tuple[Any, str, Any], ...]:
    """What torch asks the driver for, which may not be there, and what stands for it: a generator, events, waiting, free
    memory, whether autocast is possible; and one way of changing parameters."""

    class Event:
        def record(self) -> None:
            pass

        def synchronize(self) -> None:
            waits.note("waits for a copy that it began before", late=True)

    return (
        (torch.cuda, "default_generators", (torch.Generator(),)),
        (torch.cuda, "Event", Event),
        (torch.cuda, "synchronize", lambda *_: waits.note("waits for all that the device was given")),
        (torch.cuda, "mem_get_info", lambda *_: (FREE_BYTES, FREE_BYTES)),
        (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.utils, "swap_tensors", _take_data),
    )


@contextmanager
def _card_stands_in(waits: Waits) -> Iterator[None]:
    stand_in = _stands_in(waits)
    before = [getattr(owner, name) for owner, name, _ in stand_in]
    for owner, name, value in stand_in:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(stand_in, before, strict=True):
            setattr(owner, name, value)
