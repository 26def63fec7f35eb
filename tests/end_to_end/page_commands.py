"""The commands of a page, tried at small size in its order."""

from __future__ import annotations

import shlex
from pathlib import Path

from small_world import IMAGE_PX, World, metrics, run_recipe

from tbps.command import main

SMALL_IMAGES = ("--image-px", *map(str, IMAGE_PX))
PRETRAINED = "pretrain_mals"


def try_tbps(command: str) -> None:
    """A command of the console script, in the current folder; worlds get small images."""
    words = shlex.split(command)
    assert main([*words[1:], *(SMALL_IMAGES if words[2] == "synth" else ())]) == 0, command


def try_training(command: str, world: World, runs: Path, *, root: str) -> str:
    """A step of the small twin of what `python` or `accelerate launch` would start, by the command's own settings.

    root: what it trains on where the command does not say. Returns `<recipe>/<name>`.
    """
    words = shlex.split(command)
    script = next(place for place, word in enumerate(words) if word.startswith("recipes/"))
    recipe, variant, given = Path(words[script]).stem, words[script + 1], words[script + 2 :]
    small = "tiny"
    if variant.endswith("pa-100k"):
        small = "tiny-pa-100k"
    if recipe == PRETRAINED and variant not in ("mars", "tiny"):
        small = f"tiny-{variant.removeprefix('tiny-')}"
    method = small.removeprefix("tiny-") if recipe == PRETRAINED and small != "tiny" else recipe
    overrides = world.overrides(runs, recipe=method, max_steps=1)
    if recipe == PRETRAINED or small == "tiny-pa-100k":
        overrides += ["--evaluation.every-epochs", "0"]
    root_of = () if "--data.root" in given else ("--data.root", root)
    assert run_recipe(recipe, small, *overrides, *root_of, *given) == 0, command
    name = given[given.index("--name") + 1] if "--name" in given else small
    assert metrics(runs / recipe / name)[0]["step"] == 1
    return f"{recipe}/{name}"
