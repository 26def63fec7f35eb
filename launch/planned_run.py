"""A run as a user asks for it: recipe file, variant and overrides, read and checked before any machine is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.accelerate_settings import planned_environment
from tbps.config.data import Data
from tbps.config.names import check_slurm_path
from tbps.config.run import Run
from tbps.data import file_lock
from tbps.data.sample_order import BatchOrder, PairOrder
from tbps.recipe_command import read_overrides, read_variants
from tbps.runs.run_folder import RunFolder
from tbps.training.launch_settings import as_launched


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """What will be run, and the run that comes of it."""

    recipe: str
    """Path of the recipe file."""
    variant: str
    overrides: tuple[str, ...]
    run: Run

    @property
    def arguments(self) -> tuple[str, ...]:
        """What stands behind `python` on the command line."""
        return (self.recipe, self.variant, *self.overrides)

    @property
    def folder(self) -> RunFolder:
        """Where the run writes."""
        return RunFolder.of(self.run)


def plan_run(recipe: str, variant: str, overrides: Sequence[str], *, accelerate: str = "") -> PlannedRun:
    """Read everything, as it will be trained under the launch settings `accelerate` (see `launch.rank.run_task`).

    ValueError, or one sentence and SystemExit for an override, says what is wrong.
    """
    variants = read_variants(recipe)
    if variant not in variants:
        raise ValueError(f"{recipe} has no variant {variant!r}, expected one of {', '.join(variants)}")
    run = read_overrides(variants[variant], list(overrides), program=f"{recipe} {variant}")
    check_slurm_path("the folder of runs", str(Path(run.runs).expanduser().absolute()))
    run = as_launched(run, planned_environment(os.environ, accelerate))
    return PlannedRun(recipe=recipe, variant=variant, overrides=tuple(overrides), run=run)


def check_batch(data: Data, num_processes: int) -> None:
    """ValueError where the processes cannot share out a batch evenly."""
    try:
        share = BatchOrder(PairOrder(1, seed=0), batch_pairs=data.batch_pairs, group_pairs=data.group_pairs).share_pairs(
            num_processes
        )
    except ValueError as error:
        groups = data.batch_pairs // data.group_pairs
        fitting = ", ".join(str(size) for size in range(1, groups + 1) if groups % size == 0)
        raise ValueError(f"{error}; world sizes that fit: {fitting}") from error
    if data.micro_batch_pairs and share % data.micro_batch_pairs:
        raise ValueError(
            f"data.micro_batch_pairs is {data.micro_batch_pairs}, expected a divisor of the {share} pairs that each of"
            f" {num_processes} processes computes in a step; change it or use 0"
        )


def check_folder(planned: PlannedRun) -> None:
    """ValueError where the run's folder belongs to another config, or another process works in it."""
    folder = planned.folder
    if folder.config.exists():
        folder.check_same(planned.run)
    if folder.lock.exists():
        file_lock.check(folder.lock)
    if holder := holder_of(folder):
        raise ValueError(
            f"{folder.path} is in use by another process ({holder}); wait until it ends, or choose another name with --name"
        )


def holder_of(folder: RunFolder) -> str:
    """Who works in a run folder; empty if nobody, or if nobody can know: see `tbps.data.file_lock`."""
    return file_lock.holder_of(folder.lock) if folder.lock.exists() else ""
