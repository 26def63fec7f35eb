"""Every command of README.md and its pages is tried at small size; a new one that this file does not know is a failure."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_trials as trials
import pytest
from command_trials import README
from small_world import REPOSITORY, World, run_recipe

from tbps.config import methods
from tbps.config.methods.method import MethodConfig
from tbps.recipe_command import read_overrides

PROGRAMS = ("make", "python", "python3", "tbps", "accelerate", "torchrun", "pip", "source", "sbatch", "apt-get")
PAGES = ("recipes/README.md", "tbps/data/shards.md", "tbps/methods/official.md", "launch/README.md")
"""Those of README.md that no test of their own tries."""
ALL = "\n\n".join((README, *((REPOSITORY / page).read_text(encoding="utf-8") for page in PAGES)))


def commands_of(text: str) -> list[str]:
    """Commands in indented blocks and between backticks, without shell comments, in order."""
    pieces = re.findall(r"^ {4,}(\S.*)$|`([^`]+)`", text, flags=re.MULTILINE)
    lines = (" ".join((block or inline).split("  #")[0].split()) for block, inline in pieces)
    return list(dict.fromkeys(line for line in lines if line.split(" ")[0] in PROGRAMS and " " in line))


def overrides_of(text: str) -> list[str]:
    """Settings between backticks that stand alone, such as `--method.padding official`."""
    return list(dict.fromkeys(re.findall(r"`(--\w+\.[^`]+)`", text)))


HOW: dict[str, Callable[[str, trials.Trial], None]] = {
    "make demo": trials.make,
    "make test": trials.make,
    "python -m tests.chaos --times 200": trials.chaos,
    "python -m tests.arrows": trials.arrows,
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e .": trials.install,
    "source .venv/bin/activate": trials.activate,
    "tbps data doctor data/CUHK-PEDES --benchmark cuhk-pedes": lambda command, trial: trial.tbps(command),
    "tbps convert ALBEF.pth weights/albef.safetensors": trials.convert,
    "python recipes/mars.py cuhk-pedes --data.root data/CUHK-PEDES": trials.train,
    "accelerate launch --num_processes 4 recipes/mars.py cuhk-pedes"
    " --data.root data/CUHK-PEDES --data.batch-pairs 32": trials.train,
    "torchrun --nproc_per_node 2 recipes/mars.py tiny": trials.two_processes,
    "python recipes/mars.py cuhk-pedes --help": trials.print_help,
    "python recipes/clip.py tiny": trials.train_start_of_bamg,
    "tbps evaluate runs/mars/cuhk-pedes --on rstpreid --root data/RSTPReid": trials.evaluate,
    "tbps evaluate runs/pretrain_mals/mars --on all --root data": trials.evaluate_on_all,
    "tbps report runs/mars/cuhk-pedes": trials.report,
    trials.INDEX_OF_DEMO: trials.index_pictures,
    'tbps search demo/people.index "a woman in a red coat"': trials.search,
    "tbps serve demo/people.index": trials.serve,
    "tbps index photos photos.index --run runs/mars/cuhk-pedes": trials.index_pictures,
    "tbps data shard data/MALS shards/mals --benchmark mals --chunks auto": trials.shard,
    "tbps data chunks": trials.chunks,
    "tbps data index DIR --benchmark cuhk-pedes --caption-key json:captions --identity-key json:id": trials.index,
    "accelerate launch recipes/pretrain_mals.py mars": trials.train,
    "accelerate launch recipes/mars.py cuhk-pedes --start.weights runs/pretrain_mals/mars": trials.train,
    "accelerate launch recipes/pretrain_coco.py coco --data.root data/COCO": trials.train,
    "accelerate launch recipes/laip.py cuhk-pedes --start.weights runs/pretrain_coco/coco": trials.train,
    "tbps convert --export runs/mars/cuhk-pedes mars.safetensors": trials.export,
    "tbps convert --export --merge runs/irra/cuhk-pedes irra.safetensors": trials.merge,
    "python -m launch.testbed start": trials.testbed,
    "apt-get install slurm-wlm munge": trials.packages,
    "tbps doctor": trials.doctor,
    "tbps plan mars cuhk-pedes --gpu h100 --gpus 64": trials.plan,
    "tbps doctor runs/mars/cuhk-pedes": trials.doctor,
    "sbatch slurm/pretrain_mals.sh": trials.batch_script,
    "sbatch slurm/pretrain_mals.sh aptm": trials.batch_script,
    "sbatch slurm/finetune.sh": trials.batch_script,
    "sbatch slurm/finetune.sh recipes/rasa.py rstpreid --data.root data/RSTPReid": trials.batch_script,
    "sbatch slurm/sweep.sh launch/sweeps/mars_table2.py": trials.batch_script,
    "python -m launch.submit recipes/mars.py cuhk-pedes --nodes 2 --gpus-per-node 4 --time 12:00:00"
    " --data.batch-pairs 64 --dry-run": trials.dry_run,
    "python -m launch.status": trials.status,
    "tbps results runs": trials.results,
    "python -m launch.sweep launch/sweeps/mars_table2.py --at-most 8 --dry-run": trials.dry_run,
    "accelerate launch --config_file launch/accelerate/multi_node.yaml --machine_rank 0 --main_process_ip HOST"
    " recipes/mars.py cuhk-pedes --data.batch-pairs 64": trials.train,
    "accelerate launch --config_file launch/accelerate/zero2.yaml"
    " recipes/mars.py cuhk-pedes --data.batch-pairs 32": trials.train,
    **{f"python benchmarks/{name}": trials.benchmark for name in trials.BENCHMARKS if name != "scale.py"},
    "python benchmarks/scale.py --folder NEW_FOLDER": trials.benchmark,
}


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pretrained and a fine-tuned run of one step each."""
    runs = tmp_path_factory.mktemp("runs")
    for recipe in ("pretrain_mals", "pretrain_coco", "mars"):
        assert run_recipe(recipe, "tiny", *world.overrides(runs, recipe=recipe, max_steps=1)) == 0
    return runs


def test_commands_are_found() -> None:
    text = "Say `make\nworld` or `tbps` or `cat x`:\n\n    tbps new thing   # why\n\n       python recipes/new.py tiny\n"
    assert commands_of(text) == ["make world", "tbps new thing", "python recipes/new.py tiny"]


def test_every_command_of_readme_is_known() -> None:
    found = commands_of(ALL)
    assert set(found) - set(HOW) == set(), "README.md or a page has new commands: say in HOW how they are tried"
    assert set(HOW) - set(found) == set(), "README.md and its pages have lost these commands"


@pytest.mark.parametrize("page", PAGES)
def test_readme_leads_to_the_page(page: str) -> None:
    assert f"`{page}`" in README


@pytest.mark.slow
@pytest.mark.parametrize("command", HOW)
def test_command(command: str, world: World, trained: Path, tmp_path: Path) -> None:
    HOW[command](command, trials.Trial(world, tmp_path, trained))


@pytest.mark.parametrize("override", overrides_of(ALL))
def test_every_setting_of_readme_is_read(override: str) -> None:
    name, *values = override.split()
    variant = importlib.import_module("recipes.mars").VARIANTS["cuhk-pedes"]
    words = [name, *values] if values else [name, "x"]  # one that is only mentioned takes a text
    beside = ["--lora.targets", "q"] if name.startswith("--lora.") and name != "--lora.targets" else []
    default: Any = read_overrides(variant, beside, program="mars.py cuhk-pedes")
    assert read_overrides(variant, [*beside, *words], program="mars.py cuhk-pedes") != default


def _methods() -> dict[str, Any]:
    """The class of settings of every method of the toolkit, by its name in small letters."""
    modules = [
        importlib.import_module(name) for _, name, _ in pkgutil.iter_modules(methods.__path__, f"{methods.__name__}.")
    ]
    classes = [one for module in modules for one in vars(module).values() if inspect.isclass(one)]
    return {one.__name__.lower(): one for one in classes if issubclass(one, MethodConfig) and one.MODULE}


def test_the_table_of_stages_is_what_the_methods_say() -> None:
    """The names are as their papers write them, the rest is written here."""
    head = "| method | DDP | ZeRO-1 | ZeRO-2 | ZeRO-3 |\n|---|---|---|---|---|\n"
    found = ALL.partition(head)[2].partition("\n\n")[0].splitlines()
    known = {row.split(" | ")[0].removeprefix("| ").lower(): row for row in found}
    expected = {}
    for name, method in _methods().items():
        cells = ["yes" if stage in (0, *method().needs((384, 384)).zero_stages) else "no" for stage in (0, 1, 2, 3)]
        title = known.get(name, f"| {name}").split(" | ")[0]
        expected[name] = f"{title} | {' | '.join(cells)} |"
    assert known == expected and len(found) == len(known), "it needs these rows:\n" + "\n".join(expected.values())


def test_every_folder_and_recipe_of_readme_exists() -> None:
    for path in re.findall(r"`((?:recipes|tbps|tests|benchmarks|launch|slurm)/[\w/.]*)`", ALL):
        assert (REPOSITORY / path).exists(), path
