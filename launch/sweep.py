"""Train many configurations: `python -m launch.sweep launch/sweeps/mars_table2.py --cluster NAME --at-most 8`.

All points become one job array. Overrides that follow are added to every point, such as --data.root DIR. The same command
again shows where all points are: finished ones are skipped, waiting and running ones left alone, failed ones tried again. A
point that ran out of memory is tried once more with twice the accumulation, which does not change its result.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from launch.eager import run_here
from launch.job import RecipeJob, check_job_name, make_executor, record_for, submit
from launch.planned_run import check_batch, check_folder
from launch.run_state import RunState, state_of
from launch.site import Site, add_options, given_options, site_from
from launch.slurm import NoSlurm, Queue, check_request, partitions, queue
from launch.sweep_points import PlannedPoint, Sweep, read_sweep
from tbps.config.data import Data
from tbps.data import file_lock
from tbps.reporting.table_rows import write_row

_EAGER_OPTIONS = {"gpus_per_node"}


@dataclass(kw_only=True)
class Standing:
    """Where a point is, and what this command does about it."""

    one: PlannedPoint
    state: RunState
    is_due: bool = False
    micro_batch_pairs: int = 0
    """Set where an attempt ran out of memory: what the next one uses, or the last one used."""
    note: str = ""


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status: 1 where a point has failed for good or here, 2 for what a user can cause."""
    parser = argparse.ArgumentParser(
        prog="launch.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("sweep", help="Python file with POINTS, such as launch/sweeps/mars_table2.py")
    parser.add_argument("--at-most", type=int, default=0, metavar="N", help="points that run at a time (default: all)")
    parser.add_argument("--dry-run", action="store_true", help="print the points and the script, and submit nothing")
    parser.add_argument("--eager", action="store_true", help="run the points here, one after the other")
    add_options(parser)
    given, overrides = parser.parse_known_args(arguments)
    try:
        return _sweep(given, overrides)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"launch.sweep: {error}\n")
        return 2


def _sweep(given: argparse.Namespace, overrides: list[str]) -> int:
    _check_options(given)
    site = Site(gpus_per_node=given.gpus_per_node or 1) if given.eager else site_from(given)
    sweep = read_sweep(given.sweep, overrides, accelerate=site.accelerate)
    for one in sweep.points:
        _name_row(one, lambda point: check_batch(point.planned.run.data, site.num_processes))
    folder = Path(sweep.points[0].planned.run.runs).expanduser().absolute() / ".sweeps" / sweep.name
    executor = make_executor(site, folder=folder, job_name=check_job_name(sweep.name), at_most=given.at_most)
    if given.dry_run:
        standings = plan_points(sweep, _queue_if_any(), site)
        num_due = sum(standing.is_due for standing in standings)
        _show(sweep, standings)
        sys.stdout.write("" if given.eager or not num_due else executor.script(num_points=num_due))
        return 0
    if not given.eager:
        check_request(site, partitions())
    with _alone(folder):
        standings = plan_points(sweep, _queue_if_any() if given.eager else queue(), site)
        for one in sweep.points:
            write_row(one.planned.folder.path, one.table_row)
        due = [standing for standing in standings if standing.is_due]
        if given.eager:
            _run_here(due, site)
        elif due:
            _submit(due, site, folder, submit(executor, [_job(standing, site) for standing in due]))
    _show(sweep, standings)
    return 1 if any(standing.state.kind in ("failed", "unreadable") for standing in standings) else 0


def _check_options(given: argparse.Namespace) -> None:
    if given.at_most < 0:
        raise ValueError(f"--at-most is {given.at_most}, expected at least 1, or nothing for no limit")
    if given.eager and (asked := sorted({*given_options(given), *(["cluster"] if given.cluster else [])} - _EAGER_OPTIONS)):
        raise ValueError(f"--eager runs here, where --{asked[0].replace('_', '-')} means nothing; leave one of them out")


def _name_row(one: PlannedPoint, check: Callable[[PlannedPoint], None]) -> None:
    """Call `check`; what it says is said of the point's row."""
    try:
        check(one)
    except ValueError as error:
        raise ValueError(f"row {one.point.row!r}: {error}") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two copies of one command would each submit every point."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        if not file_lock.take(lock):
            raise ValueError(f"another launch.sweep is at work in {folder}; wait until it ends")
        yield


def _queue_if_any() -> Queue | None:
    try:
        return queue()
    except NoSlurm:
        return None


# -- what to do about a point --------------------------------------------------------------------------------------------


def plan_points(sweep: Sweep, queued: Queue | None, site: Site) -> list[Standing]:
    """Where every point stands and what is to be done. queued: None where Slurm cannot be asked."""
    found = []
    for one in sweep.points:
        state = state_of(one.planned.folder, one.planned.run, queued, also_on=tuple(one.point.also_on))
        standing = _decide(Standing(one=one, state=state), site)
        if standing.is_due:
            _check_due(standing)
        found.append(standing)
    return found


def _check_due(standing: Standing) -> None:
    """A folder that cannot take the run is told in the point's row, and keeps no other point from running."""
    try:
        check_folder(standing.one.planned)
    except ValueError as error:
        standing.state = replace(standing.state, kind="failed")
        standing.is_due, standing.note = False, str(error)


def _decide(standing: Standing, site: Site) -> Standing:
    """Fill in whether the point runs now, and with which micro-batch."""
    state, record = standing.state, standing.state.record
    standing.is_due = state.kind in ("new", "stopped", "failed")
    standing.note = state.reason
    same_as_before = record is not None and record.arguments == standing.one.planned.arguments
    if not same_as_before or record is None or state.kind != "failed":
        return standing
    standing.micro_batch_pairs = record.micro_batch_pairs
    if state.of_memory and record.micro_batch_pairs:
        standing.is_due = False
        standing.note = f"out of memory, also with micro-batches of {record.micro_batch_pairs} pairs: {state.reason}"
    elif state.of_memory:
        standing.micro_batch_pairs = smaller_micro_batch(standing.one.planned.run.data, site.num_processes)
        standing.is_due = bool(standing.micro_batch_pairs)
        if not standing.is_due:
            standing.note = f"out of memory with the smallest micro-batch, one group: {state.reason}"
    return standing


def smaller_micro_batch(data: Data, num_processes: int) -> int:
    """Half the pairs of a forward pass, or the next smaller number that divides it into whole groups; 0 if there is none."""
    groups = (data.micro_batch_pairs or data.batch_pairs // num_processes) // data.group_pairs
    parts = next((number for number in range(2, groups + 1) if groups % number == 0), 0)
    return groups // parts * data.group_pairs if parts else 0


# -- doing it ------------------------------------------------------------------------------------------------------------


def _job(standing: Standing, site: Site) -> RecipeJob:
    planned = standing.one.planned
    fewer = ("--data.micro-batch-pairs", str(standing.micro_batch_pairs)) if standing.micro_batch_pairs else ()
    return RecipeJob(
        (*planned.arguments, *fewer),
        accelerate=site.accelerate,
        run_folder=planned.folder.path.absolute(),
        also_on=standing.one.point.also_on,
    )


def _submit(due: Sequence[Standing], site: Site, folder: Path, jobs: Sequence[str]) -> None:
    for standing, job in zip(due, jobs, strict=True):
        record_for(standing.one.planned, job=job, logs=folder, micro_batch_pairs=standing.micro_batch_pairs)
        again = " again" if standing.state.kind == "failed" else ""
        standing.state = RunState(kind="pending", progress=standing.state.progress)
        standing.note = f"submitted{again} as {job}" + _with_micro(standing)


def _run_here(due: Sequence[Standing], site: Site) -> None:
    for standing in due:
        _run_point(standing, site)
        if standing.state.of_memory and standing.is_due:  # the one more try, at once
            _run_point(standing, site)


def _run_point(standing: Standing, site: Site) -> None:
    one = standing.one
    sys.stdout.write(f"{one.point.row}, seed {one.point.seed}{_with_micro(standing)} ...\n")
    sys.stdout.flush()
    run_here(one, num_processes=site.num_processes, micro_batch_pairs=standing.micro_batch_pairs)
    used = standing.micro_batch_pairs
    standing.state = state_of(one.planned.folder, one.planned.run, {}, also_on=tuple(one.point.also_on))
    _decide(standing, site)
    if standing.state.kind == "finished":
        standing.micro_batch_pairs, standing.note = used, "run here" + _with_micro(standing)


def _with_micro(standing: Standing) -> str:
    return f", micro-batches of {standing.micro_batch_pairs} pairs" if standing.micro_batch_pairs else ""


def _show(sweep: Sweep, standings: Sequence[Standing]) -> None:
    table = Table(title=sweep.title)
    for name in ("row", "seed", "state", "step", "note"):
        table.add_column(name, justify="right" if name in ("seed", "step") else "left")
    for standing in standings:
        progress = standing.state.progress
        step = f"{progress.step}/{progress.total or '?'}" if progress.step else "-"
        point = standing.one.point
        table.add_row(point.row, str(point.seed), standing.state.kind, step, standing.note)
    console = Console(width=140)
    with console.capture() as captured:
        console.print(table, markup=False)
    counts = Counter(standing.state.kind for standing in standings)
    told = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    points = "1 point" if len(standings) == 1 else f"{len(standings)} points"
    sys.stdout.write(f"{captured.get()}{points}: {told}; runs in {_runs(standings)}\n")


def _runs(standings: Sequence[Standing]) -> str:
    return ", ".join(sorted({str(standing.one.planned.folder.path.parent) for standing in standings}))


if __name__ == "__main__":
    raise SystemExit(main())
