"""Imports of a process that trains. Half a million objects come with PyTorch and its compiler, and all of them stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing(*, first: bool = False) -> Iterator[None]:
    """Meanwhile, look for no garbage; afterwards, never again among what is there now. That saves a fifth of the time of
    PyTorch's imports (benchmarks/cpu.md), and later searches.

    first: the process begins here. Without it, nothing happens unless the process has begun so: what another one holds may
    well be garbage.
    """
    if not gc.isenabled() or not (first or gc.get_freeze_count()):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
