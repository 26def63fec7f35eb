"""Every process makes the same collectives in a step: the first and the last of 8 and of 512, in torch's fake group.

`-s` prints them as a table. Methods are the recipes' small twins: what is sent does not depend on how large a layer is.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.distributed as dist
from faults import sends_more_on_the_last_process, sends_on_the_first_process_alone
from rehearsed import METHODS, PAIRS, real_run
from test_planted_faults import Fault, place_of, plant
from torch import nn

from tbps.planning.collectives import Collective, collectives_of, first_difference, gradient_buckets


def both_ends(name: str, processes: int) -> tuple[tuple[Collective, ...], tuple[Collective, ...]]:
    """Of the first process and of the last."""
    run = real_run(name, "bf16", quick=True)
    first, last = (collectives_of(run, pairs=PAIRS, processes=processes, rank=rank) for rank in (0, processes - 1))
    return first, last


def table(name: str, processes: int, made: Sequence[Collective]) -> str:
    """As text."""
    rows = [f"{one.what:<12}{one.kind:<9}{one.shape!s:<18}{one.num_bytes:>12,}  {one.place}" for one in made]
    return "\n".join([f"{name}, {processes} processes: bytes", *rows])


@pytest.mark.parametrize(
    ("name", "processes"), [*((name, 8) for name in METHODS), *((name, 512) for name in ("mars", "clip", "bamg"))]
)
def test_the_first_and_the_last_process_make_the_same(name: str, processes: int) -> None:
    first, last = both_ends(name, processes)
    print(table(name, processes, first))
    assert not first_difference(first, last)
    gathered = [one for one in first if one.what == "all-gather"]
    assert all(one.shape[0] == processes * PAIRS for one in gathered), "rows of all processes"
    run = real_run(name, quick=True)
    assert bool(gathered) == (run.needs.contrast == "batch" or hasattr(run.method, "queue_pairs"))
    places = [one.place for one in first]
    numbers = [number for number, place in enumerate(places) if "sum_over_processes" in place]
    assert len(numbers) == 1 and places[numbers[0] - 1] == "gradients", "the step's numbers follow the gradients"


@pytest.mark.parametrize("fault", [sends_on_the_first_process_alone, sends_more_on_the_last_process])
def test_a_collective_that_depends_on_the_process_is_named(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, fault)
    found = first_difference(*both_ends("clip", 8))
    assert found.startswith(place_of(fault)), found


def test_buckets_are_those_of_torchs_reducer() -> None:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        layers = nn.Sequential(*[nn.Linear(1500, 1500) for _ in range(8)])
        spread = nn.parallel.DistributedDataParallel(layers, broadcast_buffers=False, gradient_as_bucket_view=True)
        for _ in range(3):
            spread(torch.ones(2, 1500)).sum().backward()
        told = spread._get_ddp_logging_data()["rebuilt_bucket_sizes"]
    finally:
        dist.destroy_process_group()
    # Of a layer, the bias is ready before the weight.
    ready = [(one.shape, one.dtype) for layer in reversed(layers) for one in (layer.bias, layer.weight)]
    assert [one.num_bytes for one in gradient_buckets(ready)] == [int(size) for size in told.split(",")]
