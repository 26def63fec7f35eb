"""Which share of a card's arithmetic a run's speed is (MFU), once a process of its own has counted what a pair needs.

Counting rehearses a step on fake tensors (tbps/planning/rehearsal.py), about ten seconds of one core: training does not wait
for it. Needed is forward and backward of typical captions; what activation checkpointing computes again is not.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from tempfile import TemporaryFile

import torch

from tbps.config.run import Run
from tbps.config.serialise import run_from_json, to_json
from tbps.data.worker_processes import die_with_parent
from tbps.planning.gpus import gpu_named
from tbps.training.devices import choose_device

logger = logging.getLogger(__name__)

_NOT_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_COUNTED = "GFLOP of a pair: "
"""Before the number, on the one line among others (warnings) that holds it."""


class Mfu:
    """Call it with pairs a second of one GPU: the share, 0 to 1; None = the needed work is not known, or not yet."""

    def __init__(self, run: Run, *, processes: int, peak_tflops: float) -> None:
        """Start counting. processes: of the run; peak_tflops: what its card computes at most in its precision."""
        self._peak_tflops = peak_tflops
        self._gflop_per_pair: float | None = None
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_A_RANK}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self._answer = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - read when it is whole
        with TemporaryFile("w+", encoding="utf-8") as question:
            json.dump({"run": to_json(run), "processes": processes, "parent": os.getpid()}, question)
            question.seek(0)
            self._counting: subprocess.Popen[bytes] | None = subprocess.Popen(
                [sys.executable, "-m", "tbps.planning.mfu"],
                stdin=question,
                stdout=self._answer,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def __call__(self, pairs_per_s: float) -> float | None:
        """Needed floating-point operations a second over what the card can do."""
        self._look()
        return self._gflop_per_pair and pairs_per_s * self._gflop_per_pair / (1000 * self._peak_tflops)

    def counts(self) -> bool:
        """Whether the process is still at it."""
        return self._counting is not None and self._counting.poll() is None

    def _look(self) -> None:
        """Whether it has been counted meanwhile; said once, as is why it could not be."""
        if self._counting is None or self.counts():
            return
        self._counting = None
        with self._answer as answer:
            answer.seek(0)
            lines = answer.read().splitlines() or ["it ended without a word"]
        counted = [line.removeprefix(_COUNTED) for line in lines if line.startswith(_COUNTED)]
        if not counted:
            logger.info("MFU is not told: the work of a pair could not be counted (%s)", lines[-1])
            return
        self._gflop_per_pair = float(counted[0])
        logger.info("a pair needs %.4g GFLOP; MFU is of %g TFLOP/s a GPU", self._gflop_per_pair, self._peak_tflops)


def mfu_of(run: Run, *, rank: int, processes: int) -> Mfu | None:
    """Of this process's GPU; None on all but the first process, on the CPU, and where nobody knows the card."""
    if rank or (device := choose_device()).kind != "cuda":
        return None
    if (gpu := gpu_named(device.name)) is None:
        logger.info("MFU is not told: what a %s computes at most is not known (tbps/planning/gpus.py)", device.name)
        return None
    return Mfu(run, processes=processes, peak_tflops=gpu.tflops(run.loop.precision))


def gflop_per_pair(run: Run, *, processes: int) -> float:
    """GFLOP that forward and backward of a pair need in this run's micro-batches. ValueError: the run cannot be planned."""
    from tbps.planning.rehearsal import rehearse

    run = replace(run, loop=replace(run.loop, activation_checkpointing=False))
    pairs = run.data.micro_batch_pairs or run.data.batch_pairs // processes
    return rehearse(run, pairs=pairs, processes=processes).flops_per_pair / 1e9


def main() -> int:
    """Count for the process that writes a run to stdin; the exit status."""
    asked = json.load(sys.stdin)
    die_with_parent(asked["parent"])
    if hasattr(os, "nice"):
        os.nice(10)
    torch.set_num_threads(1)
    try:
        counted = gflop_per_pair(run_from_json(asked["run"]), processes=asked["processes"])
    except (ValueError, RuntimeError) as error:
        sys.stdout.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{_COUNTED}{counted}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
