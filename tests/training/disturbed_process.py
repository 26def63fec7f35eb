"""The small run as a script, with dropout 0.1, in which something happens on some ranks in one step."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small_method import WORKERS, SmallMethod, small_parts, small_run

from tbps.data.batch import HostBatch
from tbps.methods.method import LossesAndNumbers
from tbps.training.loop import train
from tbps.training.parts import Batches
from tbps.training.process_end import end_process

DISTURBANCE_S = 8.0
"""How long what is only slow takes."""


class _LateBatches:
    """Batches of which one, counted from 1, comes late."""

    def __init__(self, batches: Batches, late: int) -> None:
        self.batches, self.late = batches, late
        self.micro_batches_per_step = batches.micro_batches_per_step

    def __iter__(self) -> Iterator[HostBatch]:
        for number, batch in enumerate(self.batches, start=1):
            if number == self.late:
                time.sleep(DISTURBANCE_S)
            yield batch


def _hang() -> None:
    while True:
        time.sleep(60)


def _work() -> None:
    end = time.monotonic() + DISTURBANCE_S
    while time.monotonic() < end:
        sum(range(1000))


def _method(step: dict[str, int]) -> SmallMethod:
    """step: of each disturbance, in which step it happens, counted from 1."""
    method = SmallMethod(dropout=0.1)
    calls = itertools.count(1)

    def disturb(_: object, __: object, found: LossesAndNumbers) -> LossesAndNumbers:
        number = next(calls)
        if number == step.get("hang"):
            _hang()
        if number == step.get("work"):
            _work()
        if number == step.get("nan"):  # of a loss as reported; its gradient is finite
            losses, numbers = found
            return {**losses, "prd": losses["prd"] + torch.tensor(float("nan"))}, numbers
        return found

    method.register_forward_hook(disturb)
    return method


def main(folder: Path, changes: dict[str, Any], ranks: list[int], step: dict[str, int]) -> int:
    """Train; messages go to log.txt, the weights after an error to rank-<rank>.safetensors."""
    logging.basicConfig(filename=folder / "log.txt", level=logging.INFO, format="%(levelname)s %(message)s")
    step = step if int(os.environ["RANK"]) in ranks else {}
    run = small_run(folder, **{"workers": WORKERS, **changes})
    parts = small_parts(run)
    made: list[SmallMethod] = []
    make_batches = parts.make_batches
    parts = replace(
        parts,
        build=lambda: made.append(_method(step)) or made[-1],  # type: ignore[func-returns-value]
        make_batches=lambda **where: _LateBatches(make_batches(**where), step.get("late", -1)),
    )
    try:
        train(run, parts)
    except ValueError as error:
        logging.getLogger().error("%s", error)
        weights = {name: tensor.detach().clone() for name, tensor in made[0].online.state_dict().items()}
        save_file(weights, folder / f"rank-{os.environ['RANK']}.safetensors")
        return 1
    return 0


if __name__ == "__main__":
    end_process(main(Path(sys.argv[1]), *map(json.loads, sys.argv[2:5])))
