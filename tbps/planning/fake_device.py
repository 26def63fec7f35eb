"""A device on which nothing is computed: shapes, types and bytes are real, numbers are not.

Tensors on it are torch's FakeTensors, tensors of the host are real ones: what a step lays out on the host from lengths and
token ids is computed as always, and what it does on the device is only noted. So a step of real size takes seconds and no
memory, with or without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tbps.planning.backward import Backward
from tbps.planning.fake_outputs import key_of, remember, remembered_on
from tbps.planning.tally import Tally, flops_of
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
        self.remembered = remembered_on(device)
        self.attributes = dict(vars(self.to_device(torch.empty(0))))
        """Of a fake tensor in Python."""
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
            stack.enter_context(_in_place_of_torchs(self._answers()))
            stack.enter_context(self.backward.saving())
            stack.enter_context(self.fake_mode)
            stack.enter_context(_Dispatch(self))
            yield

    def to_device(self, tensor: Tensor) -> Tensor:
        """A fake tensor on the device, like a real one."""
        return self.fake_mode.fake_tensor_converter.from_meta_and_device(self.fake_mode, tensor.to("meta"), self.device)

    def note(self, tensors: Iterable[Tensor], *, is_view: bool, flops: int | None) -> None:
        """What an operation gave. flops: None where it is not one of those that are counted."""
        self.operations += not is_view
        for tensor in tensors:
            self.tally.hold(tensor)
        if flops is not None:
            self.tally.count(flops)

    def read(self, shape: torch.Size, kind: torch.dtype) -> Tensor:
        """What stands for numbers of the device where the host reads them."""
        with unset_fake_temporarily(), torch._C.DisableTorchFunction():
            return self.guess(shape, kind)

    def enter_part(self, part: str) -> None:
        """What follows is computed by that part, and its backward pass too."""
        self.tally.part = part
        self.parts.append((torch._C._autograd._get_sequence_nr(), part))

    def _answers(self) -> tuple[tuple[Any, str, Any], ...]:
        """What torch asks the driver for, which may not be there: a generator, events, waiting, free memory, whether
        autocast is possible; one way of changing parameters; and calls that a GPU answers in a way of its own.
        """
        waits = self.waits
        attend, to_numpy, deep_copy = F.scaled_dot_product_attention, Tensor.numpy, Tensor.__deepcopy__

        class Event:
            def record(self) -> None:
                pass

            def synchronize(self) -> None:
                waits.note("waits for a copy that it began before", late=True)

        def grad(output: Tensor, of: Tensor | Sequence[Tensor], *, retain_graph: bool = False) -> tuple[Tensor, ...]:
            return self.backward.grad(output, [of] if isinstance(of, Tensor) else of, keep=retain_graph)

        def copy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
            return _copy(tensor, memo) if isinstance(tensor, FakeTensor) else deep_copy(tensor, memo)

        def numpy(tensor: Tensor, **force: bool) -> Any:
            if not isinstance(tensor, FakeTensor):
                return to_numpy(tensor, **force)
            if self.device.type != "cpu":
                raise TypeError("can't convert a tensor of the device to numpy: copy it to the host first (HostCopy)")
            return to_numpy(self.read(tensor.shape, tensor.dtype))

        return (
            (torch.cuda, "default_generators", (torch.Generator(),)),
            (torch.cuda, "Event", Event),
            (torch.cuda, "synchronize", lambda *_: waits.note("waits for all that the device was given")),
            (torch.cuda, "mem_get_info", lambda *_: (FREE_BYTES, FREE_BYTES)),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.utils, "swap_tensors", _take_data),
            (Tensor, "backward", lambda loss: self.backward.run(loss)),
            (torch.autograd, "grad", grad),
            (Tensor, "__deepcopy__", copy),
            (Tensor, "pin_memory", lambda tensor: waits.pin(tensor)),
            (Tensor, "numpy", numpy),
            (F, "scaled_dot_product_attention", attend if self.device.type == "cpu" else _fused),
        )

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

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled: torch would put two calls around each of ours

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # asked for thousands of times
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        owner = self.owner
        given: list[FakeTensor] = []
        real = owner.device.type == "cpu" and not func._schema.is_mutable
        key = key_of(func, args, kwargs, given, real=real)
        if key is not None and (remembered := owner.remembered.get(key)) is not None:
            out, tensors = remembered.make(given, owner.attributes)
            owner.note(tensors, is_view=remembered.is_view, flops=remembered.flops)
            return out
        fakes = bool(given) or any(isinstance(one, FakeTensor) for one in tree_iter((args, kwargs)))
        target = kwargs.get("device")
        on_device = target is not None and torch.device(target).type == owner.device.type != "cpu"
        if not fakes and not on_device:
            with unset_fake_temporarily():
                if kwargs.get("pin_memory"):
                    return owner.waits.pin(func(*args, **{**kwargs, "pin_memory": False}))
                out = func(*args, **kwargs)
            if owner.device.type == "cpu":
                self._note(func, args, kwargs, out)
            return out
        waits = len(owner.waits.found)
        if owner.device.type != "cpu":
            owner.waits.operation(func, args, kwargs)
        if fakes and (read := self._read(func, args, kwargs)) is not None:
            return read
        out = func(*args, **kwargs)
        flops = self._note(func, args, kwargs, out)
        if key is not None and waits == len(owner.waits.found):
            made = remember(func, out, given, attributes=owner.attributes, flops=flops)
            if made is not None:
                owner.remembered[key] = made
        return out

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
        """Its FLOPs, of those that are counted."""
        if func.namespace == "c10d":
            self.owner.sent.append(_sent(func.overloadpacket.__name__, args, after=bool(self.owner.gradients)))
            return None
        flops = flops_of(func, args, kwargs, out)
        self.owner.note((one for one in tree_iter(out) if isinstance(one, Tensor)), is_view=func.is_view, flops=flops)
        return flops

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


@contextmanager
def _in_place_of_torchs(answers: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Owner, name and what the name means meanwhile."""
    before = [vars(owner).get(name) for owner, name, _ in answers]
    for owner, name, value in answers:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(answers, before, strict=True):
            if value is None:  # a base class has it
                delattr(owner, name)
            else:
                setattr(owner, name, value)
