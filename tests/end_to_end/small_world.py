"""A synthetic world of some pedestrians, and the commands of the toolkit called on it."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ready_python
import torch

from recipes import clip
from tbps.convert.writing import write_safetensors
from tbps.data.annotations import read_annotations
from tbps.data.shard_writer import write_shards
from tbps.methods.registry import build_method
from tbps.recipe_command import recipe_command
from tbps.runs.metrics_log import TIMES
from tbps.synthetic.world import write_world
from tbps.text.word_pieces import train_vocabulary

if TYPE_CHECKING:
    import pytest

REPOSITORY = Path(__file__).parents[2]
IMAGE_PX = (64, 32)
VOCABULARY_SIZE = 500
"""Fewer than in `tiny`: so few captions do not hold 600 word pieces."""
RECIPES = ("albef", "rasa", "mars", "aga", "laip", "pretrain_mals", "pretrain_coco")
"""Those of ALBEF's family."""
CLIP_FAMILY = ("clip", "irra", "bilma")
"""Those with CLIP's towers and byte pairs, which rank by similarity alone."""
ADAPTED = ("bamg",)
"""Those with adapters on CLIP's frozen towers: they start from weights."""

CLIP_AS_RECIPES_TRAIN = ("--data.workers", "2")
AS_RECIPES_TRAIN = ("--data.workers", "2", "--method.bert.dropout", "0.1")
"""What every test has that kills, stops or hangs a run: loader workers hear signals too, and dropout draws."""


def launch(processes: int) -> tuple[str, ...]:
    """What comes before the path of a recipe to start it as several processes."""
    return (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes))


LAUNCH_TWO = launch(2)


@dataclass(frozen=True, kw_only=True)
class World:
    """Where everything lies."""

    folder: Path

    @property
    def cuhk_pedes(self) -> Path:
        """24 training, 8 validation and 8 test identities."""
        return self.folder / "cuhk-pedes"

    @property
    def rstpreid(self) -> Path:
        """A second benchmark, for cross-set evaluation."""
        return self.folder / "rstpreid"

    @property
    def mals(self) -> Path:
        """64 images."""
        return self.folder / "mals"

    @property
    def shards(self) -> Path:
        """The same as shards."""
        return self.folder / "mals-shards"

    @property
    def coco(self) -> Path:
        """24 training, 8 validation and 8 test images of five captions."""
        return self.folder / "coco"

    def root(self, recipe: str) -> Path:
        """What the recipe trains on."""
        return {"pretrain_mals": self.shards, "pretrain_coco": self.coco}.get(recipe, self.cuhk_pedes)

    @property
    def vocabulary(self) -> Path:
        """Word pieces of the captions."""
        return self.folder / "vocab.txt"

    @property
    def clip(self) -> Path:
        """Weights of the towers of `recipes/clip.py tiny`; random ones."""
        return self.folder / "clip.safetensors"

    def overrides(self, runs: Path, *, recipe: str = "mars", max_steps: int = 3) -> list[str]:
        """What makes a `tiny` run read this world and write to `runs`; later overrides win."""
        words = ("--data.captioning.vocabulary", str(self.vocabulary), "--method.bert.vocabulary-size", str(VOCABULARY_SIZE))
        matching = ("--evaluation.rerank-k", "16")
        return [
            *("--runs", str(runs)),
            *("--data.root", str(self.root(recipe))),
            # One for each process of pytest-xdist; the attribute chunks beside them are found once for all.
            *("--data.cache", str(self.folder / "cache" / f"shards{_worker()}")),
            *("--data.workers", "0"),
            *("--schedule.max-steps", str(max_steps)),
            *("--loop.tensorboard", "False"),
            # What the tests count on, whatever `tiny` is tuned to.
            *("--schedule.epochs", "3"),
            *(() if recipe in (*CLIP_FAMILY, *ADAPTED) else (*words, *matching)),
            *(("--start.weights", str(self.clip)) if recipe in ADAPTED else ()),
            *(() if recipe == "pretrain_mals" else ("--evaluation.every-epochs", "1")),
            # A step of the first stage, then all losses.
            *(("--schedule.second-stage-epoch", "0.2") if recipe == "laip" else ()),
        ]


def make_world(folder: Path) -> World:
    """Write it: about two seconds."""
    world = World(folder=folder)
    common: dict[str, Any] = {"workers": 1, "image_px": IMAGE_PX, "parsing": False}
    write_world(world.cuhk_pedes, benchmark="cuhk-pedes", num_identities=40, seed=1, **{**common, "parsing": True})
    write_world(world.rstpreid, benchmark="rstpreid", num_identities=24, seed=2, **common)
    write_world(world.mals, benchmark="mals", num_identities=64, seed=3, **common)
    write_world(world.coco, benchmark="coco", num_identities=40, seed=4, **common)
    write_shards(world.mals, "mals", world.shards)
    captions = [
        *read_annotations(world.cuhk_pedes, "cuhk-pedes").split("train").caption,
        *read_annotations(world.mals, "mals").split("train").caption,
    ]
    train_vocabulary(captions, size=VOCABULARY_SIZE, path=world.vocabulary)
    _write_clip(world.clip)
    return world


def shared_world(places: pytest.TempPathFactory) -> World:
    """The world of all tests, written by the process of pytest-xdist that first needs it. Do not write into it."""
    base = places.getbasetemp()
    return World(folder=shared_folder((base.parent if _worker() else base) / "small-world", make_world))


def shared_folder(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder with what `make` puts there, in the process that first needs it. Do not write into it."""
    folder.mkdir(exist_ok=True)
    with _alone_with(folder):
        if not (folder / "is-whole").exists():
            make(folder)
            (folder / "is-whole").touch()
    return folder


def trained(world: World, recipe: str) -> Path:
    """The shared world's run of a recipe after a step, without a score. Do not write into it."""
    runs = world.folder / "runs"
    words = ("--evaluation.test", "False", "--evaluation.every-epochs", "0", "--evaluation.batch-images", "8")
    with _alone_with(world.folder):
        if not (runs / recipe / "is-whole").exists():
            assert run_recipe(recipe, "tiny", *world.overrides(runs, recipe=recipe, max_steps=1), *words) == 0
            (runs / recipe / "is-whole").touch()
    return runs / recipe / "tiny"


def _worker() -> str:
    """Which process of pytest-xdist this is; empty for the only one."""
    return os.environ.get("PYTEST_XDIST_WORKER", "")


@contextmanager
def _alone_with(folder: Path) -> Iterator[None]:
    """Among all who share the folder."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_clip(file: Path) -> None:
    run = clip.tiny()
    torch.manual_seed(0)
    towers = build_method(run.method, image_px=run.data.image_px).state_dict()
    write_safetensors(towers, file, {"image_grid": "8x4"})


def run_recipe(recipe: str, *arguments: str) -> int:
    """`python recipes/<recipe>.py <arguments>` in this process, which saves seconds of imports; the exit status."""
    module = importlib.import_module(f"recipes.{recipe}")
    try:
        recipe_command(module.VARIANTS, about=module.__doc__ or "", arguments=list(arguments))
    except SystemExit as end:
        assert isinstance(end.code, int), f"a recipe ends with a number, found {end.code!r}"
        return end.code
    raise AssertionError("a recipe ends with an exit status")


def environment(**changes: str) -> dict[str, str]:
    """For child processes: one thread each, on the CPU, nothing fetched."""
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    return {**os.environ, **quiet, **changes}


def call(*words: str, timeout_s: float = 180, **changes: str) -> subprocess.CompletedProcess[str]:
    """A command in the repository, with its output: Python begins with its imports done, see `ready_python`."""
    if ready_python.can_be_ready(words, environment(**changes)):
        return ready_python.run(words, folder=REPOSITORY, variables=environment(**changes), timeout_s=timeout_s)
    return call_anew(*words, timeout_s=timeout_s, **changes)


def call_anew(*words: str, timeout_s: float = 180, **changes: str) -> subprocess.CompletedProcess[str]:
    """A command in the repository as a shell starts it, with its output."""
    return subprocess.run(
        words, cwd=REPOSITORY, env=environment(**changes), capture_output=True, text=True, timeout=timeout_s, check=False
    )


def spread(stage: int) -> dict[str, str]:
    """The environment in which `accelerate launch --config_file launch/accelerate/zeroN.yaml` starts a process; 0 = DDP."""
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)} if stage else {}


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl` without times."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def assert_one_sentence(text: str, *parts: str) -> None:
    """One line that holds every part, and no traceback."""
    assert "Traceback" not in text and 'File "' not in text, text
    lines = text.strip().splitlines()
    assert len(lines) == 1, f"expected one sentence, found {len(lines)} lines:\n{text}"
    for part in parts:
        assert part in lines[0], f"expected {part!r} in: {lines[0]}"
