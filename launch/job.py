"""One run as a Slurm job, through Submitit: one task per GPU.

One task per GPU, not one per node with a launcher inside: Slurm itself then starts, binds, signals and kills every rank,
each rank has a log of its own, and nothing stands between Slurm's signals and exit statuses and the training process.

Submitit brings the function to the nodes. What it does on signals (requeue on its own count, ignore SIGTERM) is for
functions that cannot be interrupted; training can, so from the first line of `run_task` on the signals are ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from launch.job_record import JobRecord, write_record
from launch.planned_run import PlannedRun
from launch.requeue import BATCH_LINE
from launch.site import Site, minutes_of
from tbps.config.names import check_printable


class RecipeJob:
    """What every task does: its rank's share of the run; afterwards the first rank scores it on other benchmarks.

    Slurm starts a requeued job with the same arguments: the run folder says where to go on.
    """

    def __init__(
        self, arguments: Sequence[str], *, accelerate: str, run_folder: Path, also_on: Mapping[str, str] | None = None
    ) -> None:
        self.arguments, self.accelerate = tuple(arguments), accelerate
        self.run_folder, self.also_on = run_folder, dict(also_on or {})

    def __call__(self) -> None:
        """Returns when all is done; SystemExit otherwise, so that Slurm sees the exit status."""
        from launch.rank import run_task

        exit_status = run_task(list(self.arguments), self.accelerate)
        if exit_status:
            raise SystemExit(exit_status)
        if os.environ.get("SLURM_PROCID", "0") == "0":
            for benchmark, root in self.also_on.items():
                evaluate_on(self.run_folder, benchmark, root)


def evaluate_on(run_folder: Path, benchmark: str, root: str) -> None:
    """Score a run on another benchmark, unless that was done before the job was requeued."""
    from tbps.scoring import Asked, score

    if not (run_folder / "results" / f"cross-set-{benchmark}-test.json").exists():
        score(run_folder, Asked(benchmark=benchmark, root=root))  # type: ignore[arg-type]


class Executor(submitit.SlurmExecutor):
    """Submitit's, which can also write its script where there is no Slurm."""

    @classmethod
    def affinity(cls) -> int:
        """Whether Slurm is there is asked where something is submitted."""
        return 2

    def script(self, *, num_points: int = 1) -> str:
        """What sbatch would be given."""
        parameters = {**self.parameters, **({"map_count": num_points} if num_points > 1 else {})}
        whole = Executor(self.folder)
        whole.parameters = parameters
        return whole._make_submission_file_text(whole._submitit_command_str, "dry-run") + "\n"


def make_executor(site: Site, *, folder: Path, job_name: str, at_most: int = 0) -> Executor:
    """folder: for logs and pickles, on a disk that all nodes share. at_most: members of an array that run at a time."""
    executor = Executor(folder)
    other: dict[str, Any] = {"requeue": True, **site.sbatch}
    if site.gpu_request:
        option, _, value = site.gpu_request.format(gpus=site.gpus_per_node).partition("=")
        other[option.lstrip("-")] = value
    parameters: dict[str, Any] = {
        "job_name": job_name,
        "time": minutes_of(site.time),
        "nodes": site.nodes,
        "ntasks_per_node": site.gpus_per_node,
        "cpus_per_task": site.cpus_per_gpu,
        "signal_delay_s": site.signal_delay_s,
        "setup": [*site.setup, BATCH_LINE.format(python=sys.executable)],
        # Since 22.05 a step does not inherit the job's CPUs per task; it truncates the logs of a requeued job; and it would
        # wait for the other ranks where one has died.
        "srun_args": [f"--cpus-per-task={site.cpus_per_gpu}", "--open-mode=append", "--kill-on-bad-exit=1"],
        "wckey": None,
        "additional_parameters": other,
    }
    parameters |= {name: getattr(site, name) for name in ("partition", "account", "qos") if getattr(site, name)}
    if site.mem_gb_per_gpu:
        other["mem-per-cpu"] = f"{-(-1024 * site.mem_gb_per_gpu // site.cpus_per_gpu)}M"
    if at_most:
        parameters["array_parallelism"] = at_most
    executor.update_parameters(**parameters)
    return executor


def check_job_name(name: str) -> str:
    """The name, if it fits into one line of a script."""
    check_printable("the job's name", name)
    return name


def submit(executor: Executor, jobs: Sequence[RecipeJob]) -> list[str]:
    """Ids of the jobs: members of one array where there are several. ValueError is what sbatch says."""
    executor.folder.mkdir(parents=True, exist_ok=True)
    try:
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
    except (FailedJobError, FailedSubmissionError) as error:
        said = [line for line in str(error).splitlines() if "sbatch: error" in line] or str(error).splitlines()[-1:]
        raise ValueError(f"Slurm does not take the job: {said[0].strip()}; change what it names and submit again") from error
    return [str(job.job_id) for job in submitted]


def record_for(planned: PlannedRun, *, job: str, logs: Path, micro_batch_pairs: int = 0) -> None:
    """Remember which job was asked to do a run."""
    record = JobRecord(job=job, logs=str(logs), arguments=planned.arguments, micro_batch_pairs=micro_batch_pairs)
    write_record(planned.folder.path, record)
