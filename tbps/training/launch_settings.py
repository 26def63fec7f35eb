"""What launchers and users say about a run in the environment. Without PyTorch: who lists or submits runs asks too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from tbps.config.run import Run


def asks_for_cpu(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user has said so: ACCELERATE_USE_CPU, or every GPU hidden by CUDA_VISIBLE_DEVICES."""
    said = environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on")
    return said or hides_gpus(environment.get("CUDA_VISIBLE_DEVICES", "none was hidden"))


def hides_gpus(visible: str) -> bool:
    """Of a value of CUDA_VISIBLE_DEVICES: CUDA reads it up to the first entry that is no GPU."""
    return not visible.strip() or visible.strip().startswith(("-", ","))


def as_launched(run: Run, environment: Mapping[str, str] = os.environ) -> Run:
    """The run as it is trained in an environment that Accelerate's settings have made: in their precision, if they name one.

    Whoever asks what a run is (training, and whatever plans, names or compares runs) asks here. ValueError: a precision that
    does not exist here, or a stage of ZeRO under which the run cannot train.
    """
    if uses_zero(environment):
        run.check_zero_stage(zero_stage(environment))
    asked = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked == "no":
        return run
    if asked != "bf16":
        raise ValueError(f"the launch settings ask for mixed precision {asked!r}, expected no or bf16: change them")
    return replace(run, loop=replace(run.loop, precision="bf16"))


def uses_zero(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether they ask for DeepSpeed."""
    return environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def zero_stage(environment: Mapping[str, str] = os.environ) -> int:
    """Of ZeRO, where they do."""
    return int(environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
