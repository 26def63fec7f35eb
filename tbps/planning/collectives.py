"""What a process sends the others in a step: every collective of a rehearsed one, and DDP's buckets of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch._C._distributed_c10d import _compute_bucket_assignment_by_size

from tbps.config.run import Run
from tbps.planning.fake_device import Sent
from tbps.planning.rehearsal import Rehearsal, stage

BUCKET_BYTES = 25 * 2**20
"""At least so much is in each bucket of DDP but the first and the last: torch's default, which no run changes."""
FIRST_BUCKET_BYTES = 2**20
"""As above of the first one, which travels while the rest of the backward pass has hardly begun."""
_WORDS = {
    "allreduce_": "all-reduce",
    "_allgather_base_": "all-gather",
    "allgather_": "all-gather",
    "broadcast_": "broadcast",
}


Gradient = tuple[torch.Size, torch.dtype]
"""Shape and type of one."""


@dataclass(frozen=True, kw_only=True)
class Collective:
    """That every process of a step must make alike, in this order."""

    what: str
    """Such as "all-gather"."""
    place: str
    """file:line (function) of the code that asks for it; "gradients" = DDP does, in the backward pass."""
    kind: str
    """Type of what travels."""
    shape: tuple[int, ...]
    """Of the largest tensor: of an all-gather, what all processes bring together."""
    num_bytes: int


def collectives_of(run: Run, *, pairs: int, processes: int, rank: int) -> tuple[Collective, ...]:
    """Of one step of process `rank`, which computes `pairs` pairs in one micro-batch. ValueError: as of `rehearse`."""
    run = replace(run, data=replace(run.data, batch_pairs=pairs * processes, micro_batch_pairs=0))
    with stage(run, pairs=pairs, processes=processes, rank=rank) as fake:
        rehearsal = Rehearsal(run, fake, pairs=pairs, processes=processes, rank=rank)
        rehearsal.step()
        return in_order(fake.sent, fake.gradients)


def in_order(sent: Sequence[Sent], gradients: Sequence[Gradient]) -> tuple[Collective, ...]:
    """Those that a step made itself, and between them DDP's of its gradients."""
    before = [_collective(one) for one in sent if not one.after_backward]
    after = [_collective(one) for one in sent if one.after_backward]
    return (*before, *gradient_buckets(gradients), *after)


def counted(made: Sequence[Collective]) -> list[tuple[Collective, int, int]]:
    """One of each kind that a place asks for, how many there are, and the bytes of all; in the order of the first."""
    alike: dict[tuple[str, str, str], list[Collective]] = {}
    for one in made:
        alike.setdefault((one.what, one.place, one.kind), []).append(one)
    return [(them[0], len(them), sum(one.num_bytes for one in them)) for them in alike.values()]


def gradient_buckets(made: Sequence[Gradient]) -> list[Collective]:
    """The all-reduces that DDP makes of gradients, whose shapes and types are given in the order in which they were ready:
    as its reducer does from the second step on, by torch's own rule."""
    gradients = [torch.empty(shape, dtype=kind, device="meta") for shape, kind in made]
    places = list(range(len(gradients)))
    caps = [FIRST_BUCKET_BYTES, BUCKET_BYTES]
    buckets, _ = _compute_bucket_assignment_by_size(gradients, caps, [], places)
    found = []
    for bucket in buckets:
        first = gradients[bucket[0]]
        numbers = sum(gradients[place].numel() for place in bucket)
        found.append(
            Collective(
                what="all-reduce",
                place="gradients",
                kind=_kind(first.dtype),
                shape=(numbers,),
                num_bytes=numbers * first.element_size(),
            )
        )
    return found


def first_difference(one: Sequence[Collective], other: Sequence[Collective]) -> str:
    """The first collective that two processes do not make alike, in words; empty where they make all alike."""
    for number in range(max(len(one), len(other))):
        mine, theirs = (part[number] if number < len(part) else None for part in (one, other))
        if mine != theirs:
            shown = mine or theirs
            assert shown is not None
            return f"{shown.place}: one process makes {_words(mine)}, another one {_words(theirs)}"
    return ""


def _words(collective: Collective | None) -> str:
    if collective is None:
        return "nothing"
    return f"{collective.what} of {collective.kind} {list(collective.shape)} at {collective.place}"


def _collective(sent: Sent) -> Collective:
    return Collective(
        what=_WORDS.get(sent.operation, sent.operation),
        place=sent.place,
        kind=_kind(sent.kind),
        shape=sent.shape,
        num_bytes=sent.num_bytes,
    )


def _kind(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
