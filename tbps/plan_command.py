"""`tbps plan RECIPE VARIANT --gpu h100 --gpus 64 [overrides]`: what a run will cost, before anybody has a GPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tbps.recipe_command import read_overrides, read_variants

RECIPES = Path(__file__).parents[1] / "recipes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tbps plan`; what it does not know is an override of the recipe."""
    parser.add_argument("recipe", help="name, such as mars, or a file, such as recipes/mars.py")
    parser.add_argument("variant", help="such as cuhk-pedes")
    parser.add_argument("--gpu", required=True, help="such as h100, a100-80, rtx4090; another one with the next two")
    parser.add_argument("--gpu-memory-gb", type=float, help="memory of a GPU in GiB, where --gpu is not known")
    parser.add_argument("--gpu-tflops", type=float, help="its dense bfloat16 TFLOP/s")
    parser.add_argument("--gpus", type=int, default=1, help="all of them (default 1)")
    parser.add_argument("--gpus-per-node", type=int, help="default: as such nodes usually have")
    parser.add_argument("--utilisation", type=float, help="share of the arithmetic that a step reaches (default 0.4)")
    parser.add_argument("--pairs-per-s", type=float, help="what all GPUs together were measured at, in place of that")
    parser.set_defaults(run=_plan, takes_overrides=True)


def _plan(given: argparse.Namespace) -> None:
    from tbps.planning.gpus import gpu_of
    from tbps.planning.plan import UTILISATION, make_plan
    from tbps.planning.tables import plan_text

    overrides: Sequence[str] = given.overrides
    gpu = gpu_of(given.gpu, memory_gb=given.gpu_memory_gb, tflops=given.gpu_tflops)
    if given.gpus < 1:
        raise ValueError(f"--gpus is {given.gpus}, expected at least 1")
    if given.gpus_per_node is not None and given.gpus_per_node < 1:
        raise ValueError(f"--gpus-per-node is {given.gpus_per_node}, expected at least 1")
    path = Path(given.recipe) if given.recipe.endswith(".py") else RECIPES / f"{given.recipe}.py"
    variants = read_variants(str(path))
    if given.variant not in variants:
        raise ValueError(f"{given.recipe} has no variant {given.variant!r}, expected one of {', '.join(variants)}")
    run = read_overrides(variants[given.variant], list(overrides), program=f"tbps plan {given.recipe} {given.variant}")
    plan = make_plan(
        run,
        gpu,
        gpus=given.gpus,
        per_node=given.gpus_per_node,
        utilisation=UTILISATION if given.utilisation is None else given.utilisation,
        pairs_per_s=given.pairs_per_s,
        batch_given=any(word.partition("=")[0] in ("--data.batch-pairs", "--data.batch_pairs") for word in overrides),
    )
    sys.stdout.write(plan_text(plan))
