"""What Slurm knows: partitions, queued jobs and how ended ones ended. Nothing is cached."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from launch.site import Site, minutes_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """What can be asked of a partition."""

    nodes: int
    gpus_per_node: int
    """Of its largest node."""
    time_limit_min: int | None
    is_default: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """A job that has not ended."""

    state: str
    """Slurm's word in lower case: pending, running, ..."""
    reason: str
    """Why it is not running; empty where it is."""


Queue = Mapping[str, Queued]
"""Jobs by id; a member of an array has its own: 12_3."""


class NoSlurm(ValueError):
    """Slurm is not installed here or does not answer."""


def partitions() -> dict[str, Partition]:
    """All partitions by name. NoSlurm where Slurm cannot be asked."""
    return read_partitions(_ask("sinfo", "--noheader", "--format=%P|%D|%G|%l"))


def read_partitions(text: str) -> dict[str, Partition]:
    """The lines of sinfo: name (default*), nodes, generic resources, time limit; a name has one line per kind of node."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, nodes, resources, limit = line.strip().split("|")
        gpus = sum(int(count) for count in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", resources))
        before = found.get(name.rstrip("*"))
        found[name.rstrip("*")] = Partition(
            nodes=int(nodes) + (before.nodes if before else 0),
            gpus_per_node=max(gpus, before.gpus_per_node if before else 0),
            time_limit_min=None if limit in ("infinite", "n/a") else minutes_of(limit),
            is_default=name.endswith("*"),
        )
    return found


def check_request(site: Site, known: Mapping[str, Partition]) -> None:
    """ValueError where the cluster could never start such a job: sbatch would let some of them wait for ever."""
    names = ", ".join(sorted(known)) or "none"
    name = site.partition or next((name for name, partition in known.items() if partition.is_default), "")
    if not name:
        raise ValueError(f"this cluster has no default partition; choose one of {names} with --partition")
    if name not in known:
        raise ValueError(f"partition {name!r} is not known to Slurm, expected one of {names}")
    partition = known[name]
    if site.nodes > partition.nodes:
        raise ValueError(f"{site.nodes} nodes are asked for, partition {name} has {partition.nodes}; ask for fewer")
    if site.gpu_request and site.gpus_per_node > partition.gpus_per_node:
        raise ValueError(
            f"{site.gpus_per_node} GPUs are asked for on each node, the largest node of partition {name} has"
            f" {partition.gpus_per_node}; ask for fewer, or set gpu_request in the cluster's file"
        )
    limit = partition.time_limit_min
    if limit is not None and minutes_of(site.time) > limit:
        raise ValueError(
            f"the time limit {site.time} is {minutes_of(site.time)} min, partition {name} allows {limit} min;"
            " ask for less: the run is requeued and goes on"
        )


def queue() -> dict[str, Queued]:
    """My jobs that have not ended, members of arrays one by one."""
    found = {}
    for line in _ask("squeue", "--me", "--array", "--noheader", "--format=%i|%T|%r").splitlines():
        job, state, reason = line.strip().split("|", 2)
        # a job that is just ending is listed a little longer
        if state not in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "DEADLINE"):
            found[job] = Queued(state=state.lower(), reason="" if reason == "None" else reason)
    return found


def ended_as(job: str) -> str:
    """How a job ended, in Slurm's words in lower case; empty where neither accounting nor the controller remembers it."""
    try:
        states = _ask("sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={job}").split()
        if states:
            return states[0].lower()
    except NoSlurm:
        pass  # no accounting here: the controller remembers for some minutes
    try:
        match = re.search(r"JobState=(\S+)", _ask("scontrol", "show", "job", "--oneliner", job))
    except NoSlurm:
        return ""
    return match[1].lower() if match else ""


def _ask(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    except FileNotFoundError as error:
        raise NoSlurm(f"there is no {words[0]} on this machine; submit from a login node of the cluster") from error
    except subprocess.TimeoutExpired as error:
        raise NoSlurm(f"{words[0]} did not answer within a minute; look at the controller with scontrol ping") from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split()) or f"exit status {error.returncode}"
        raise NoSlurm(f"{words[0]} cannot tell ({said}); look at the controller with scontrol ping") from error
    return done.stdout
