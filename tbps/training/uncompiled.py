"""Adam and DDP without PyTorch's compiler: they import it, used or not, to tell it what it must not compile.

That is a quarter of a start's time (benchmarks/cpu.md). Nothing else changes, and where the compiler is wanted it is what it
always was. A PyTorch that tells it in other ways than 2.14 does imports it again.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

_COMPILER = "torch._dynamo"


def uncompiled(kind: type[torch.optim.Adam]) -> type[torch.optim.Adam]:
    """The same optimiser under the same name."""
    for method in (kind.add_param_group, kind.zero_grad):
        _leave_as_it_is(method)
    # PyTorch's own step is wrapped in one that imports the compiler to break graphs, and switches gradients off.
    return type(kind.__name__, (kind,), {"step": torch.no_grad()(inspect.unwrap(kind.step))})


@contextmanager
def uncompiled_ddp() -> Iterator[None]:
    """For what wraps a model in DDP: it asks the compiler how far it may divide the gradients' buckets."""
    if around_forward := getattr(DistributedDataParallel, "_inside_ddp_forward", None):
        _leave_as_it_is(around_forward)
    if _COMPILER in sys.modules:
        yield
        return
    names, stand_in = vars(torch), _StandIn()
    names["_dynamo"] = stand_in
    try:
        yield
    finally:
        if names["_dynamo"] is stand_in:  # otherwise the real one was imported meanwhile
            del names["_dynamo"]


class _StandIn:
    """For the compiler, which is imported when it is asked for anything else."""

    utils = SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer")
    """What its settings say as they come."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(_COMPILER), name)


def _leave_as_it_is(method: Callable[..., Any]) -> None:
    """Let a method that tells the compiler to leave it alone, at its first call, believe that it has done so."""
    inner = inspect.unwrap(method)
    if _COMPILER not in sys.modules and not hasattr(inner, "__dynamo_disable"):
        setattr(inner, "__dynamo_disable", inner)
