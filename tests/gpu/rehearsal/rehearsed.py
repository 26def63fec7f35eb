"""Runs at real size, and a step of theirs on a device that is not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from real_methods import NAMES, run_of

from tbps.config.run import Run
from tbps.planning.fake_device import FakeDevice
from tbps.planning.plan import LORA
from tbps.planning.rehearsal import Rehearsal, stage
from tbps.planning.waits import NotOnDevice, Wait, naming_lines

METHODS = (*NAMES, "clip-lora")
PRECISIONS = ("fp32", "bf16")
PAIRS = 16
"""Of a micro-batch: one group, unless said otherwise. Sizes are free on the device, but Python's time is not."""


def real_run(
    name: str,
    precision: str = "fp32",
    *,
    micro_batches: int = 1,
    processes: int = 1,
    quick: bool = False,
    group: int = PAIRS,
) -> Run:
    """The recipe of a method for CUHK-PEDES, or `tiny` where quick, with a small micro-batch."""
    run = run_of(name.removesuffix("-lora"), pairs=PAIRS, precision=precision, quick=quick)
    data = replace(run.data, batch_pairs=PAIRS * micro_batches * processes, group_pairs=group)
    return replace(run, data=data, lora=LORA if name.endswith("-lora") else run.lora)


@dataclass
class Rehearsed:
    """A method on the device, for one precision after another."""

    name: str
    fake: FakeDevice
    rehearsal: Rehearsal

    def waits(self, precision: str) -> list[Wait]:
        """Of a training step. NotOnDevice: the device would refuse it."""
        run = real_run(self.name, precision)
        if self.rehearsal.run != run:
            same = self.rehearsal.run.lora == run.lora  # of frozen weights, the type follows the precision
            self.rehearsal = Rehearsal(run, self.fake, pairs=PAIRS, method=self.rehearsal.method if same else None)
        with naming_lines():
            self.rehearsal.step()
        return self.fake.waits.found


@contextmanager
def rehearsed(name: str) -> Iterator[Rehearsed]:
    """A method at real size."""
    run = real_run(name)
    with stage(run, pairs=PAIRS) as fake:
        with naming_lines():
            rehearsal = Rehearsal(run, fake, pairs=PAIRS)
        yield Rehearsed(name, fake, rehearsal)


def check(waits: list[Wait]) -> None:
    """NotOnDevice where the host waits for what it has just begun."""
    if early := [str(wait) for wait in waits if not wait.late]:
        raise NotOnDevice("\n".join(dict.fromkeys(early)))
