"""The Slurm job that this process belongs to: its id, what Slurm says of it, and orders to Slurm about it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

RUNNING = ("RUNNING", "SIGNALING")
"""States of a job that Slurm has not decided to end; the second for a moment after `--signal`."""

_SOON_S = 15 * 60
"""A stop signal so shortly before the time limit is taken for its announcement."""


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """One job, or one task of an array."""

    id: str
    """As scontrol takes it: `12`, or `12_3` for task 3 of array 12."""
    restarts: int
    """How often Slurm has started it again."""

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> SlurmJob | None:
        """The job around this process; None outside of one."""
        job = environment.get("SLURM_JOB_ID")
        if job is None:
            return None
        if "SLURM_ARRAY_TASK_ID" in environment:
            job = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
        return cls(id=job, restarts=int(environment.get("SLURM_RESTART_COUNT", "0")))

    def facts(self) -> dict[str, str]:
        """What `scontrol show job` says now, by its names; empty if it says nothing."""
        words = _scontrol("show", "job", "--oneliner", self.id).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def requeue(self) -> str:
        """Put it back into the queue, which ends all that runs of it; the reason if Slurm refuses."""
        return _scontrol("requeue", self.id).stderr.strip()

    def forbid_requeue(self) -> None:
        """Let it end for good: the same error would come again."""
        _scontrol("update", f"JobId={self.id}", "Requeue=0")

    def why_stopped(self) -> str:
        """Why Slurm, or somebody through it, has just sent a stop signal."""
        facts = self.facts()
        if facts.get("PreemptTime", "None") not in ("None", "Unknown"):
            return "preemption"
        if facts.get("JobState") == "CANCELLED":
            return "cancelled"
        if facts.get("JobState") not in RUNNING:
            return "requeued"
        left_s = (_time(facts.get("EndTime", "")) - datetime.now()).total_seconds()
        return "time limit" if left_s < _SOON_S else "signal"


def address_of_first_node(node_list: str) -> str:
    """Where the first node of a Slurm node list is reached: its NodeAddr, which need not be a name the network knows."""
    first = _scontrol("show", "hostnames", node_list).stdout.split()[0]
    words = _scontrol("show", "node", "--oneliner", first).stdout.split()
    return dict(word.split("=", 1) for word in words if "=" in word).get("NodeAddr", first)


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # Unknown
        return datetime.max


def _scontrol(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(("scontrol", *words), capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ValueError(
            "scontrol is not found on this node; a job needs Slurm's commands on PATH wherever it runs"
        ) from error
