"""Train a recipe on a Slurm cluster: `python -m launch.submit recipes/mars.py cuhk-pedes --nodes 2 --gpus-per-node 4`.

Overrides of the recipe follow as for the recipe itself. Everything is checked before anything is submitted. The job is
requeued at its time limit and when it is preempted, and goes on from its last step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from launch.follow import follow
from launch.job import RecipeJob, check_job_name, make_executor, record_for, submit
from launch.job_record import read_record
from launch.planned_run import PlannedRun, check_batch, check_folder, plan_run
from launch.site import Site, add_options, minutes_of, site_from
from launch.slurm import NoSlurm, Queue, check_request, partitions, queue


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status. What a user can cause is one sentence and status 2."""
    parser = argparse.ArgumentParser(
        prog="launch.submit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("recipe", help="file, such as recipes/mars.py")
    parser.add_argument("variant", help="such as cuhk-pedes")
    add_options(parser)
    parser.add_argument("--job-name", help="in squeue (default: recipe and name of the run)")
    parser.add_argument("--dry-run", action="store_true", help="print the script and submit nothing")
    parser.add_argument("--follow", action="store_true", help="show progress until the job has ended")
    given, overrides = parser.parse_known_args(arguments)
    try:
        return _submit(given, overrides)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"launch.submit: {error}\n")
        return 2


def _submit(given: argparse.Namespace, overrides: list[str]) -> int:
    site = site_from(given)
    planned = plan_run(given.recipe, given.variant, overrides, accelerate=site.accelerate)
    check_batch(planned.run.data, site.num_processes)
    executor = make_executor(
        site,
        folder=logs_of(planned),
        job_name=check_job_name(given.job_name or f"{planned.run.recipe}/{planned.run.name}"),
    )
    if given.dry_run:
        check_folder(planned)
        _check_cluster_if_any(site)
        sys.stdout.write(executor.script())
        return 0
    check_request(site, partitions())
    check_not_queued(planned, queue())  # first: its job's id says more than the lock of the running job
    check_folder(planned)
    job = RecipeJob(planned.arguments, accelerate=site.accelerate, run_folder=planned.folder.path.absolute())
    (job_id,) = submit(executor, [job])
    record_for(planned, job=job_id, logs=executor.folder)
    sys.stdout.write(f"job {job_id}: {in_words(site)}; run folder {planned.folder.path}; logs {executor.folder}\n")
    sys.stdout.flush()
    return follow(planned.run) if given.follow else 0


def in_words(site: Site) -> str:
    """Size and time of a job; the time so that nobody mistakes minutes for hours."""
    hours, minutes = divmod(minutes_of(site.time), 60)
    return f"{site.nodes} x {site.gpus_per_node} processes, at most {hours} h {minutes:02} min a start"


def logs_of(planned: PlannedRun) -> Path:
    """Log files of a run that is submitted alone; Submitit keeps what it sends there as well."""
    return planned.folder.path.absolute() / "jobs"


def check_not_queued(planned: PlannedRun, queued: Queue) -> None:
    """ValueError if a job for the same run folder waits or runs."""
    record = read_record(planned.folder.path)
    if record is not None and record.job in queued:
        raise ValueError(
            f"{planned.folder.path} is the run of job {record.job}, which is {queued[record.job].state}; wait for it, cancel"
            f" it with scancel {record.job}, or choose another name with --name"
        )


def _check_cluster_if_any(site: Site) -> None:
    """A dry run also works on a laptop, and says what it could not check."""
    try:
        known = partitions()
    except NoSlurm as error:
        sys.stderr.write(f"launch.submit: partition, nodes and GPUs are not checked: {error}\n")
        return
    check_request(site, known)


if __name__ == "__main__":
    raise SystemExit(main())
