"""Which part of a method computes: told by hooks on its modules while a step runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tbps.methods.method import Method
from tbps.nn.bert import BertLayer
from tbps.nn.bottleneck_fusion import BottleneckFusion, CrossFusion
from tbps.nn.cross_former import CrossFormer
from tbps.nn.cross_modal_encoder import CrossModalEncoder

IMAGE, TEXT, CROSS, MOMENTUM, REST = "image encoder", "text encoder", "cross encoder", "momentum encoder", "the rest"
PARTS = (IMAGE, TEXT, CROSS, MOMENTUM, REST)
"""Parts of a method; `the rest` is heads, decoders and losses."""
_CROSS = (CrossFormer, CrossModalEncoder, BottleneckFusion, CrossFusion)


class Parts:
    """Calls `enter` with the name of a part wherever a step enters or leaves one of a method's modules."""

    def __init__(self, method: Method, enter: Callable[[str], None]) -> None:
        self._enter, self._stack = enter, [REST]
        enter(REST)
        for name, module in method.named_modules():
            if (part := _part_of(name, module, method)) is not None:
                module.register_forward_pre_hook(self._entering(part))
                module.register_forward_hook(self._leaving)

    def _entering(self, part: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            looks = part == TEXT and isinstance(module, BertLayer) and args[2] is not None
            self._stack.append(CROSS if looks else part)
            self._enter(self._stack[-1])

        return hook

    def _leaving(self, module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        self._stack.pop()
        self._enter(self._stack[-1])


def _part_of(name: str, module: nn.Module, method: Method) -> str | None:
    """Of a module; None where it is in no part of its own, or in a layer that knows better."""

    def inside(prefix: str) -> bool:
        return name == prefix or name.startswith(f"{prefix}.")

    if any(inside(copy) for copy in method.copies):
        return MOMENTUM
    for encoder, part in zip(method.encoders, (IMAGE, TEXT), strict=False):
        if inside(encoder):
            return part if part == IMAGE or not _in_layer(name, method) else None
    holders = [method.get_submodule(name.rsplit(".", up)[0]) for up in range(name.count(".") + 1)] if name else []
    return CROSS if any(isinstance(holder, _CROSS) for holder in holders) else None


def _in_layer(name: str, method: Method) -> bool:
    """Whether a module lies in a layer of BERT, which looks at images or not."""
    holders = [name.rsplit(".", up)[0] for up in range(1, name.count(".") + 1)]
    return any(isinstance(method.get_submodule(holder), BertLayer) for holder in holders)
