"""Where a step's batch is shared out and its loss is of the whole batch: one gather, or two passes over the micro-batches.

With one micro-batch a method gathers rows in its forward pass. With several, the rows of all of them are made first, without
gradients, and gathered once; then each micro-batch is computed again, with its own rows live. The host batches of a step are
loaded once and kept for the second pass; views are made again, because on the device they take four times the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from tbps.data.batch import Batch, Draws
from tbps.data.contrast_scope import ContrastScope, Rows, with_identity
from tbps.methods.method import ContrastsBatch, Method


def check_contrast(method: Method, contrast: str, *, micro_batches: int) -> None:
    """ValueError where a method that contrasts the whole batch cannot be computed in several micro-batches."""
    if contrast == "batch" and micro_batches > 1 and not isinstance(method, ContrastsBatch):
        raise ValueError(
            f"{type(method).__name__} contrasts the whole batch and has no contrast_rows(batch, draws), which"
            f" {micro_batches} micro-batches on each process need; add it, or set --data.micro-batch-pairs 0"
        )


def rows_of(method: Method, batch: Batch, draws: Draws) -> Rows:
    """The rows that the method contrasts over the whole batch."""
    assert isinstance(method, ContrastsBatch), "check_contrast has seen to it"
    return method.contrast_rows(batch, draws)


def gathered_scope(batch: Batch, *, processes: int) -> ContrastScope:
    """The scope of a process's only micro-batch: rows are gathered when the method asks for them."""
    first_row = batch.first_group * batch.group_pairs
    return ContrastScope(batch.identity_B, shares=processes, first_row=first_row, gather=gather_rows)


def made_scope(batch: Batch, rows: Rows, *, shares: int) -> ContrastScope:
    """The scope of one of several micro-batches: `rows` of the whole batch, as `make_rows` gave them."""
    return ContrastScope(batch.identity_B, shares=shares, first_row=batch.first_group * batch.group_pairs, made=rows)


@torch.no_grad()
def make_rows(
    batches: Sequence[Callable[[], tuple[Batch, Draws]]], contrast_rows: Callable[[Batch, Draws], Rows]
) -> dict[str, Tensor]:
    """The rows of the whole batch in its order. Each of `batches` makes one micro-batch of this process."""
    parts = []
    for make in batches:
        batch, draws = make()
        parts.append(with_identity(contrast_rows(batch, draws), batch.identity_B))
    return gather_rows({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def gather_rows(rows: Rows) -> dict[str, Tensor]:
    """The rows of all processes, in their order, by one collective: as bytes, whatever their types."""
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if processes == 1:
        return dict(rows)
    plain = {name: row.detach().contiguous().view(len(row), -1) for name, row in rows.items()}
    bytes_BX = torch.cat([_bytes(row) for row in plain.values()], dim=1)
    out_GX = bytes_BX.new_empty(processes * len(bytes_BX), bytes_BX.shape[1])
    dist.all_gather_into_tensor(out_GX, bytes_BX)
    parts = out_GX.split([_bytes(row).shape[1] for row in plain.values()], dim=1)
    return {
        name: part.contiguous().view(row.dtype).view(len(out_GX), *row.shape[1:])
        for (name, row), part in zip(rows.items(), parts, strict=True)
    }


def _bytes(row_BX: Tensor) -> Tensor:
    return row_BX.view(torch.uint8)
