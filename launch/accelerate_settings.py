"""Settings files of Accelerate without its launcher: the variables that `accelerate launch --config_file` would set."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import yaml

from tbps.training.launch_settings import hides_gpus

FOLDER = Path(__file__).parent / "accelerate"
_PREFIXES = ("ACCELERATE_", "FSDP_")
_OF_MACHINES = {"num_machines", "num_processes", "main_process_port", "rdzv_backend", "same_network", "gpu_ids", "use_cpu"}
_OF_ZERO = {"offload_optimizer_device", "offload_param_device", "deepspeed_multinode_launcher"}
"""Of the keys of such a file, those that say nothing about how a run is trained."""


def settings_file(name: str) -> Path:
    """`launch/accelerate/<name>.yaml`, or the file of that path. ValueError lists the names there are."""
    shipped = FOLDER / f"{name}.yaml"
    if shipped.exists():
        return shipped
    if Path(name).is_file():
        return Path(name)
    names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
    raise ValueError(f"Accelerate settings {name!r} not found; expected a file, or one of {names}")


def launch_environment(before: Mapping[str, str], name: str, *, num_processes: int = 1) -> dict[str, str]:
    """`before` with what the settings `name` set on top; unchanged where there is no name."""
    return {**before, **(settings_environment(settings_file(name), num_processes=num_processes) if name else {})}


def planned_environment(before: Mapping[str, str], name: str) -> dict[str, str]:
    """Of `launch_environment`, what says how a run is trained: see `as_launched`.

    Settings that say nothing but what the shipped ones do are read here. Accelerate's own code imports PyTorch: seconds of
    every submission.
    """
    told = _read_plain(settings_file(name)) if name else {}
    return launch_environment(before, name) if told is None else {**before, **told}


def _read_plain(file: Path) -> dict[str, str] | None:
    """None where only Accelerate knows what a file means."""
    told = {}
    match yaml.safe_load(file.read_text(encoding="utf-8")):
        case {"distributed_type": "NO" | "MULTI_GPU", **other}:
            pass
        case {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": int(stage), **zero}, **other}:
            if not zero.keys() <= _OF_ZERO:
                return None
            told = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
        case _:
            return None
    precision = other.pop("mixed_precision", "no")
    if not isinstance(precision, str) or not other.keys() <= _OF_MACHINES:
        return None
    return {**told, "ACCELERATE_MIXED_PRECISION": precision}


def settings_environment(file: Path, *, num_processes: int) -> dict[str, str]:
    """What Accelerate's launcher would tell each of so many processes. Which process it is, the caller says."""
    # Its own code, so that every setting it knows, and what it leaves out, is the same here.
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

    words = ["--config_file", str(file), "--num_processes", str(num_processes), "--num_machines", "1"]
    given = launch.launch_command_parser().parse_args([*words, "--main_process_port", "0", "recipe.py"])
    given, defaults, precision_from_file = launch._validate_launch_command(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about ports, which are not Accelerate's matter here
        if given.use_deepspeed:
            fields = [*defaults.deepspeed_config, *(["mixed_precision"] if precision_from_file else [])]
            given.deepspeed_fields_from_accelerate_config = ",".join(fields)
            environment = prepare_deepspeed_cmd_env(given)[1]
        elif given.multi_gpu or given.use_fsdp:
            environment = prepare_multi_gpu_env(given)
        else:
            environment = prepare_simple_launcher_cmd_env(given)[1]
    # Which GPUs a process sees, its launcher says; but not that it is to see none.
    hidden = {name: environment.get(name, "0") for name in ("CUDA_VISIBLE_DEVICES",) if given.gpu_ids not in (None, "all")}
    said = {name: value for name, value in environment.items() if name.startswith(_PREFIXES)}
    return said | {name: value for name, value in hidden.items() if hides_gpus(value)}
