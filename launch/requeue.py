"""The last word of a batch script: `python -m launch.requeue STATUS` puts a job that was stopped back into the queue.

The script calls it when srun has ended, with srun's exit status. Not the ranks: one that was killed cannot, and one that
was lost to others must not wait for them. Here, all ranks are gone, and it happens once.
"""

from __future__ import annotations

import sys
import time

from launch.slurm_job import RUNNING, SlurmJob
from tbps.training.stop_signals import INTERRUPT_EXIT, LOST_EXIT

BATCH_LINE = """trap '"{python}" -m launch.requeue $?' EXIT"""
"""For a batch script, before its srun; `{python}` is the interpreter."""

_SIGNAL_EXIT = 128
_PATIENCE_S = 300.0


def requeue(status: int, job: SlurmJob) -> str:
    """Requeue the job if it should go on and Slurm has not decided otherwise; say what was done and why.

    It goes on after 75, and after a signal (128 + its number) other than Ctrl-C: 143 = stopped as asked with all saved,
    137 = killed. It does not where a rank found an error that would come again: that rank has set Requeue=0 (launch.rank).
    """
    if not (status == LOST_EXIT or (status > _SIGNAL_EXIT and status != INTERRUPT_EXIT)):
        return ""
    facts = _facts(job)
    if (state := facts.get("JobState", "unknown")) not in RUNNING:
        return f"srun ended with status {status}; job {job.id} is {state}, Slurm decides how it goes on"
    if facts.get("Requeue") == "0":
        return f"srun ended with status {status}; job {job.id} may not be requeued: a rank or its owner said so"
    # Requeuing kills this process too: speak first.
    sys.stdout.write(f"srun ended with status {status}: job {job.id} goes back into the queue\n")
    sys.stdout.flush()
    refusal = job.requeue()
    return f"job {job.id} is not requeued: {refusal}; submit it again to go on" if refusal else ""


def _facts(job: SlurmJob) -> dict[str, str]:
    """What Slurm says, waiting for a controller that is being started anew."""
    deadline = time.monotonic() + _PATIENCE_S
    while not (facts := job.facts()) and time.monotonic() < deadline:
        time.sleep(2)
    return facts


def main() -> int:
    """The command line; the exit status, which is the one given."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.stderr.write("usage: python -m launch.requeue STATUS, in a batch script\n")
        return 2
    job = SlurmJob.here()
    if job is None:
        sys.stderr.write("launch.requeue: found no Slurm job (SLURM_JOB_ID is not set); it is a line of a batch script\n")
        return 2
    if said := requeue(int(sys.argv[1]), job):
        sys.stdout.write(f"{said}\n")
    return int(sys.argv[1])


if __name__ == "__main__":
    raise SystemExit(main())
