"""What a cluster wants from every job: `launch/clusters/<name>.yaml`, each value of which the command line may replace."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from launch.accelerate_settings import settings_file
from tbps.config.names import check_printable

CLUSTERS = Path(__file__).parent / "clusters"


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Slurm's words for one run. Empty text and 0 mean: not asked for, the cluster decides."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str = "24:00:00"
    """Of one start, as `sbatch --time` reads it; a run that needs longer is requeued and goes on."""
    nodes: int = 1
    gpus_per_node: int = 1
    """Processes of a node, one per GPU."""
    gpu_request: str = "gpus-per-node={gpus}"
    """The sbatch option that asks for a node's GPUs, such as `gres=gpu:a100:{gpus}`; empty on machines without."""
    cpus_per_gpu: int = 4
    """For each process: itself, its loader workers (2 unless overridden) and one to spare."""
    mem_gb_per_gpu: int = 0
    """Host memory of each process."""
    signal_delay_s: int = 120
    """Seconds before the time limit at which training is told: longer than one step and one save."""
    accelerate: str = ""
    """Name of a file in `launch/accelerate/`; empty = plain data parallel, precision as the recipe says."""
    setup: tuple[str, ...] = ()
    """Shell lines before the run starts, such as `module load cuda`."""
    sbatch: Mapping[str, str] = field(default_factory=dict)
    """Any other option of sbatch."""

    def __post_init__(self) -> None:
        for name in ("nodes", "gpus_per_node", "cpus_per_gpu", "signal_delay_s"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, expected a whole number of at least 1")
        for name in ("partition", "account", "qos", "gpu_request"):
            check_printable(name, getattr(self, name))
        minutes_of(self.time)
        if self.signal_delay_s >= 60 * minutes_of(self.time):
            raise ValueError(
                f"signal_delay_s is {self.signal_delay_s} and the time limit {self.time} is {minutes_of(self.time)} min:"
                " training would be told to stop at once; ask for more time or set a shorter delay"
            )

    @property
    def num_processes(self) -> int:
        """Ranks of a run."""
        return self.nodes * self.gpus_per_node


def read_site(name: str, folder: Path = CLUSTERS) -> Site:
    """`<folder>/<name>.yaml`. ValueError names the clusters there are, or the setting that is wrong."""
    file = folder / f"{name}.yaml"
    if not file.is_file():
        raise ValueError(f"cluster {name!r} is not known, expected one of {_names(folder)}; add {file} to describe it")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    return site_of(values, file)


def site_of(values: Any, file: Path) -> Site:
    """The values of a YAML file, checked by name and type."""
    known = {one.name: one for one in fields(Site)}
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds {type(values).__name__}, expected settings such as 'partition: gpu'")
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"{file} sets {name!r}, expected one of {', '.join(known)}")
        expected = {"setup": list, "sbatch": dict}.get(name, int if known[name].type == "int" else str)
        if not isinstance(value, expected):
            # YAML reads 12:30:00 as the number 45000
            hint = "; put it in quotes" if expected is str else ""
            raise ValueError(f"{file} sets {name} to {value!r}, expected {_TYPES[expected]}{hint}")
    changes = {**values, "setup": tuple(map(str, values.get("setup", ()))), "sbatch": _sbatch(values.get("sbatch", {}))}
    try:
        return Site(**changes)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


_TYPES: Mapping[type, str] = {list: "a list", dict: "options by name", int: "a whole number", str: "text"}


def _sbatch(options: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): value if value is True else str(value) for name, value in options.items()}


def _names(folder: Path) -> str:
    return ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none yet"


_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<rest>\d+(?::\d+){0,2}))|(?P<plain>\d+(?::\d+){0,2})")


def minutes_of(time: str) -> int:
    """Minutes, rounded up, of a time limit as Slurm reads it.

    M, M:S, H:M:S, D-H, D-H:M or D-H:M:S: "12:00" is 12 minutes, "12:00:00" 12 hours, "1-0" a day.
    """
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError(f"the time limit is {time!r}, expected M, M:S, H:M:S or D-H:M:S, such as 12:00:00 for 12 hours")
    if match["days"]:
        hours, minutes, seconds = [*map(int, match["rest"].split(":")), 0, 0][:3]
        total = 24 * 3600 * int(match["days"]) + 3600 * hours + 60 * minutes + seconds
    else:
        numbers = [*map(int, match["plain"].split(":"))]
        hours, minutes, seconds = {1: [0, *numbers, 0], 2: [0, *numbers], 3: numbers}[len(numbers)]
        total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise ValueError(f"the time limit is {time!r}, expected more than none")
    return -(-total // 60)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The cluster's options, for submit and sweep."""
    group = parser.add_argument_group("cluster")
    group.add_argument("--cluster", metavar="NAME", help="launch/clusters/NAME.yaml; the options below win over it")
    group.add_argument("--nodes", type=int)
    group.add_argument("--gpus-per-node", type=int, help="also the number of processes of a node")
    group.add_argument("--time", help="limit of one start as Slurm reads it: 12:00:00 is 12 hours, 12:00 is 12 minutes")
    group.add_argument("--partition")
    group.add_argument("--account")
    group.add_argument("--qos")
    group.add_argument("--accelerate", metavar="NAME", help="launch/accelerate/NAME.yaml (default: data parallel)")


_OPTIONS = ("nodes", "gpus_per_node", "time", "partition", "account", "qos", "accelerate")


def given_options(given: argparse.Namespace) -> dict[str, Any]:
    """What the command line sets, by the names of Site's fields."""
    return {name: getattr(given, name) for name in _OPTIONS if getattr(given, name) is not None}


def site_from(given: argparse.Namespace) -> Site:
    """The cluster's settings with those of the command line on top."""
    site = read_site(given.cluster) if given.cluster else Site()
    site = replace(site, **given_options(given))
    if site.accelerate:
        settings_file(site.accelerate)
    return site
