"""Why a job ended badly, in one line, from what its processes wrote last."""

from __future__ import annotations

import re
from dataclasses import dataclass

from launch.job_record import JobRecord

_MEMORY = re.compile(r"out[ _-]?of[ _-]?memory|can(no|')t allocate memory|\bMemoryError\b|oom[ _-]?kill", re.I)
# Slurm and Submitit report that a process ended; the process itself has said why.
_NOT_A_CAUSE = re.compile(
    r"srun:|slurmstepd[\w.-]*: error: \*\*\*|submitit (INFO|WARNING|ERROR)|\[rank\d+\]:\[W|frame #|<omitting|\s*$"
)
_TAIL_BYTES = 20_000
_SHOWN = 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What to tell, and whether less memory would help."""

    cause: str
    of_memory: bool


def read_failure(record: JobRecord, *, ended_as: str = "") -> Failure:
    """The line about memory if a rank wrote one, else the last line of the first rank that says anything.

    ended_as: Slurm's word for it, if known.
    """
    last = ""
    for file in record.error_logs():
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            lines = log.read().decode("utf-8", errors="replace").splitlines()
        told = [line.strip() for line in lines if not _NOT_A_CAUSE.match(line)]
        for line in lines:
            if _MEMORY.search(line):
                return Failure(cause=line.strip()[:_SHOWN], of_memory=True)
        last = last or (told[-1] if told else "")
    if ended_as == "out_of_memory":
        return Failure(cause="the node's memory was used up", of_memory=True)
    slurm = f"{ended_as}: " if ended_as and ended_as != "failed" else ""
    return Failure(cause=f"{slurm}{last or 'nothing was logged'}"[:_SHOWN], of_memory=False)
