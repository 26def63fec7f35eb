"""Backward without autograd's engine: the graph is walked in Python.

The engine starts a thread for each GPU, so it refuses tensors of one that is not there. Here every node is called by itself,
in the engine's order (the last made first), and what it saved is let go once it has run.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils.checkpoint import GraphExecGroup

Node = Any
"""A node of autograd's graph, as `Tensor.grad_fn` gives it."""


class _Saved:
    """A tensor that a node keeps for backward; None once the node has run."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor


class Backward:
    """Walks the graphs that are made inside of `saving`."""

    def __init__(self, *, before: Callable[[Node], None], gradient: Callable[[Tensor], None]) -> None:
        """before: called with each node before it runs; gradient: with each gradient that a parameter is given."""
        self._before, self._gradient = before, gradient
        self._unpacked: list[_Saved] = []

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Keep what nodes save where the walk can let it go: the graph itself is held by whoever holds a loss."""
        with torch.autograd.graph.saved_tensors_hooks(_Saved, self._unpack):
            yield

    def _unpack(self, saved: _Saved) -> Tensor:
        assert saved.tensor is not None, "a graph is walked twice only where the first walk keeps it"
        self._unpacked.append(saved)
        return saved.tensor

    def run(self, loss: Tensor) -> None:
        """`loss.backward()`."""
        self._walk(loss, targets=[], keep=False)

    def grad(self, output: Tensor, inputs: Sequence[Tensor], *, keep: bool) -> tuple[Tensor, ...]:
        """`torch.autograd.grad(output, inputs, retain_graph=keep)`, of inputs that `output` was made from."""
        return self._walk(output, targets=[_edge(tensor) for tensor in inputs], keep=keep)

    @torch.no_grad()
    def _walk(self, root: Tensor, *, targets: Sequence[tuple[Node, int]], keep: bool) -> tuple[Tensor, ...]:
        """Gradients of `targets`, (node, which of its inputs); with none, those of all leaves are accumulated there."""
        first: Node = root.grad_fn
        needed, waiting = _reach(first, {node for node, _ in targets})
        buffers: dict[Node, dict[int, Tensor]] = {first: {root.output_nr: torch.ones_like(root)}}
        ready = [(0, 0, first)]
        del first
        found: dict[tuple[Node, int], Tensor] = {}
        order = 0
        with GraphExecGroup():
            while ready:
                node = heapq.heappop(ready)[2]
                given = buffers.pop(node)
                for place in (place for other, place in targets if other is node):
                    found[node, place] = given[place]
                if node not in needed:
                    continue
                for (following, place), gradient in zip(node.next_functions, self._run(node, given, keep), strict=True):
                    if following is None or following not in waiting:
                        continue
                    if gradient is not None:
                        _add(buffers.setdefault(following, {}), place, _fit(gradient, following._input_metadata[place]))
                    waiting[following] -= 1
                    if not waiting[following]:
                        del waiting[following]
                        buffers.setdefault(following, {})
                        order += 1
                        heapq.heappush(ready, (-_sequence_of(following), order, following))
                del given, node
                gradient = None
        return tuple(found[target] for target in targets)

    def _run(self, node: Node, given: dict[int, Tensor], keep: bool) -> tuple[Tensor | None, ...]:
        """What a node makes of the gradients of its outputs."""
        self._before(node)
        self._unpacked.clear()
        if hasattr(node, "variable"):
            if given:
                self._accumulate(node.variable, given[0])
            return ()
        gradients = [given.get(place) for place in range(len(node._input_metadata))]
        made = node.apply(*gradients) if isinstance(node, BackwardCFunction) else node(*gradients)
        made = made if isinstance(made, tuple) else (made,)
        if isinstance(node, BackwardCFunction):  # it answers for inputs that are no tensors, too
            wanted = iter([one for one, needed in zip(made, node.needs_input_grad, strict=True) if needed])
            made = tuple(None if following is None else next(wanted) for following, _ in node.next_functions)
        for saved in self._unpacked if not keep else ():
            saved.tensor = None
        return made

    def _accumulate(self, leaf: Tensor, gradient: Tensor) -> None:
        if leaf.grad is not None:
            leaf.grad.add_(gradient)
            return
        if gradient.stride() != leaf.stride():
            gradient = gradient.clone(memory_format=torch.preserve_format).contiguous()
        leaf.grad = gradient.detach()
        self._gradient(leaf.grad)


def _edge(tensor: Tensor) -> tuple[Node, int]:
    assert tensor.grad_fn is not None, "gradients of leaves are accumulated by `run`"
    return tensor.grad_fn, tensor.output_nr


def _sequence_of(node: Node) -> int:
    """When a node was made; leaves come first, as in the engine."""
    return 2**62 if hasattr(node, "variable") else int(node._sequence_nr())


def _reach(root: Node, targets: set[Node]) -> tuple[set[Node], Counter[Node]]:
    """Nodes that must run (those that lead to a target; all where there is none), and of each reached one, how many edges
    from such nodes lead to it."""
    order: list[Node] = []
    seen, stack = {root}, [root]
    while stack:
        node = stack.pop()
        order.append(node)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    needed = set(order)
    if targets:
        needed = set()
        for node in sorted(order, key=_sequence_of):  # whoever is made of others was made after them
            if any(following in targets or following in needed for following, _ in node.next_functions):
                needed.add(node)
    reached = needed | targets
    waiting: Counter[Node] = Counter()
    for node in needed:
        waiting.update(following for following, _ in node.next_functions if following is not None and following in reached)
    return needed, waiting


def _fit(gradient: Tensor, output: Any) -> Tensor:
    """In shape and type of the output that it is the gradient of, as the engine has it."""
    if gradient.shape != output.shape:
        gradient = gradient.sum_to_size(output.shape)
    return gradient if gradient.dtype == output.dtype else gradient.to(output.dtype)


def _add(buffer: dict[int, Tensor], place: int, gradient: Tensor) -> None:
    """Sum the gradients of an output that was used several times; in place where nobody else reads the first sum."""
    before = buffer.get(place)
    if before is None:
        buffer[place] = gradient
        return
    buffer[place] = before + gradient
