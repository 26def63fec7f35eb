"""Every command of README.md and its pages is tried at small size; a new one that this file does not know is a failure."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
import re
import shlex
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import LAUNCH_TWO, REPOSITORY, World, call, metrics, run_recipe

from tbps.command import main
from tbps.config import methods
from tbps.config.methods.method import MethodConfig
from tbps.config.run import Run
from tbps.convert.weights import read_weights
from tbps.data.sample_order import BatchOrder, PairOrder
from tbps.recipe_command import read_overrides

sys.path.append(str(REPOSITORY / "tests" / "parity"))

PROGRAMS = ("make", "python", "python3", "tbps", "accelerate", "torchrun", "pip", "source", "sbatch", "apt-get")
PAGES = ("recipes/README.md", "tbps/data/shards.md", "tbps/methods/official.md", "launch/README.md")
"""Those of README.md that no test of their own tries."""
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
ALL = "\n\n".join((README, *((REPOSITORY / page).read_text(encoding="utf-8") for page in PAGES)))


def commands_of(text: str) -> list[str]:
    """Commands in indented blocks and between backticks, without shell comments, in order."""
    pieces = re.findall(r"^ {4,}(\S.*)$|`([^`]+)`", text, flags=re.MULTILINE)
    lines = (" ".join((block or inline).split("  #")[0].split()) for block, inline in pieces)
    return list(dict.fromkeys(line for line in lines if line.split(" ")[0] in PROGRAMS and " " in line))


def overrides_of(text: str) -> list[str]:
    """Settings between backticks that stand alone, such as `--method.padding official`."""
    return list(dict.fromkeys(re.findall(r"`(--\w+\.[^`]+)`", text)))


@dataclass(frozen=True)
class Trial:
    """What stands for README's data, weights and runs."""

    world: World
    tmp_path: Path
    runs: Path

    def words(self, command: str) -> list[str]:
        """The command's words with small things in place of README's."""
        places = {
            "data/CUHK-PEDES": self.world.cuhk_pedes,
            "data/RSTPReid": self.world.rstpreid,
            "data/MALS": self.world.mals,
            "shards/mals": self.tmp_path / "shards/mals",
            "ALBEF.pth": self.tmp_path / "ALBEF.pth",
            "weights/albef.safetensors": self.tmp_path / "weights/albef.safetensors",
            "mars.safetensors": self.tmp_path / "mars.safetensors",
            "irra.safetensors": self.tmp_path / "irra.safetensors",
            "runs/irra/cuhk-pedes": self.tmp_path / "runs/irra/cuhk-pedes",
            "runs/mars/cuhk-pedes": self.tmp_path / "runs/mars/tiny",
            "runs/pretrain_mals/mars": self.runs / "pretrain_mals/tiny",
            "runs/pretrain_coco/coco": self.runs / "pretrain_coco/tiny",
        }
        return [str(places.get(word, word)) for word in shlex.split(command)]

    def tbps(self, command: str) -> None:
        """A command of the console script, which must succeed."""
        shutil.copytree(self.runs / "mars/tiny", self.tmp_path / "runs/mars/tiny")
        assert main(self.words(command)[1:]) == 0


def _make(command: str, trial: Trial) -> None:
    """What make would do, without doing it; CI runs these two for real."""
    done = call(*command.split(), "--dry-run")
    assert done.returncode == 0, done.stderr
    expected = {"make demo": "-m recipes.demo --processes 2", "make test": "-m pytest"}[command]
    assert f".venv/bin/python {expected}" in done.stdout
    assert ".venv/bin/python -m pip install" in done.stdout or (REPOSITORY / ".venv/installed").exists()


def _chaos(command: str, trial: Trial) -> None:
    """What it does is tested in test_recipe_kill.py; here, that the command is there."""
    done = call(sys.executable, *command.split()[1:], "--help")
    assert done.returncode == 0 and "--times TIMES" in done.stdout


def _arrows(command: str, trial: Trial) -> None:
    """What it finds is tested in test_arrows.py."""
    done = call(sys.executable, *command.split()[1:])
    assert done.returncode == 0 and "recipes -> tbps.config, " in done.stdout, done.stdout


def _install(command: str, trial: Trial) -> None:
    """Every package that setup.cfg asks for is pinned in the file that README names."""
    pinned = {line.split("==")[0].lower() for line in (REPOSITORY / "constraints.txt").read_text().splitlines()}
    asked = (REPOSITORY / "setup.cfg").read_text().partition("install_requires =")[2].partition("\n\n")[0]
    names = {re.split(r"[<>=]", line.strip())[0].lower() for line in asked.splitlines() if line.strip()}
    assert names and names <= pinned


def _activate(command: str, trial: Trial) -> None:
    assert "python3 -m venv .venv" in README


def _recipe(words: list[str]) -> tuple[str, Run]:
    """The recipe's name and the run of `recipes/<recipe>.py <variant> <overrides>`."""
    recipe = Path(words[0]).stem
    variants = importlib.import_module(f"recipes.{recipe}").VARIANTS
    return recipe, read_overrides(variants[words[1]], words[2:], program=recipe)


def _launched(words: list[str]) -> tuple[int, list[str]]:
    """How many processes `accelerate launch` would start (0 = as configured), and what it would start."""
    from accelerate.commands.launch import launch_command_parser

    given = launch_command_parser().parse_args(words[2:])
    return given.num_processes or 0, [given.training_script, *given.training_script_args]


def _train(command: str, trial: Trial) -> None:
    """The settings are read and can be shared out; then the recipe's small twin takes a step from the same words."""
    words = trial.words(command)
    processes, words = _launched(words) if words[0] == "accelerate" else (1, words[1:])
    recipe, run = _recipe(words)
    order = BatchOrder(PairOrder(1000, seed=1), batch_pairs=run.data.batch_pairs, group_pairs=run.data.group_pairs)
    assert order.share_pairs(processes or 1) * (processes or 1) == run.data.batch_pairs
    given = words[words.index("--start.weights") :] if "--start.weights" in words else []
    assert run_recipe(recipe, "tiny", *trial.world.overrides(trial.tmp_path, recipe=recipe, max_steps=1), *given) == 0
    assert metrics(trial.tmp_path / recipe / "tiny")[0]["step"] == 1


def _train_start_of_bamg(command: str, trial: Trial) -> None:
    """What it leaves starts BAMG's small twin."""
    _train(command, trial)
    words = trial.world.overrides(trial.tmp_path, recipe="bamg", max_steps=1)
    assert run_recipe("bamg", "tiny", *words, "--start.weights", str(trial.tmp_path / "clip/tiny")) == 0


def _two_processes(command: str, trial: Trial) -> None:
    words = command.split()
    assert words[:3] == ["torchrun", "--nproc_per_node", "2"]
    done = call(*LAUNCH_TWO, *words[3:], *trial.world.overrides(trial.tmp_path, max_steps=1))
    assert done.returncode == 0, done.stderr
    assert metrics(trial.tmp_path / "mars/tiny")[0]["step"] == 1


def _help(command: str, trial: Trial) -> None:
    done = call(sys.executable, *command.split()[1:])
    assert done.returncode == 0 and "--data.root data/CUHK-PEDES" in done.stdout


def _convert(command: str, trial: Trial) -> None:
    """A recorded step of the official code has weights under official names."""
    from recorded_step import Recorded

    torch.save({"model": Recorded("albef").part("weights.")}, trial.tmp_path / "ALBEF.pth")
    trial.tbps(command)
    tensors, about = read_weights(trial.tmp_path / "weights/albef.safetensors")
    assert about["kind"] == "albef" and any(name.startswith("online.") for name in tensors)


def _export(command: str, trial: Trial) -> None:
    trial.tbps(command)
    tensors, _ = read_weights(trial.tmp_path / "mars.safetensors")
    assert tensors and not any(name.startswith(("momentum_encoder.", "queue.")) for name in tensors)


def _merge(command: str, trial: Trial) -> None:
    """Two steps of IRRA make a base, one more step on it has adapters."""
    small = ["--data.root", str(trial.world.cuhk_pedes), "--data.workers", "0", "--loop.tensorboard", "False"]
    small += ["--evaluation.test", "False", "--evaluation.every-epochs", "0", "--runs", str(trial.tmp_path / "runs")]
    assert run_recipe("irra", "tiny", *small, "--schedule.max-steps", "2") == 0
    base = trial.tmp_path / "runs/irra/tiny"
    words = ["--start.weights", str(base), "--lora.targets", "q,v", "--lora.rank", "2", "--schedule.max-steps", "1"]
    assert run_recipe("irra", "tiny", *small, *words, "--name", "cuhk-pedes") == 0
    trial.tbps(command)
    tensors, _ = read_weights(trial.tmp_path / "irra.safetensors")
    assert tensors and not any(".lora_" in name for name in tensors)


def _evaluate(command: str, trial: Trial) -> None:
    trial.tbps(command)
    assert (trial.tmp_path / "runs/mars/tiny/results/cross-set-rstpreid-test.json").exists()


def _evaluate_on_all(command: str, trial: Trial) -> None:
    """The world has two of the three; each is scored in tests/end_to_end/test_on_all.py."""
    folder = shutil.copytree(trial.runs / "pretrain_mals/tiny", trial.tmp_path / "tiny")
    words = [str(folder) if word == "runs/pretrain_mals/mars" else word for word in command.split()[1:-1]]
    assert main([*words, str(trial.world.folder)]) == 0
    assert (folder / "results/zero-shot-rstpreid-test.json").exists()


def _report(command: str, trial: Trial) -> None:
    (trial.runs / "mars/tiny/report/report.html").unlink(missing_ok=True)
    trial.tbps(command)
    assert (trial.tmp_path / "runs/mars/tiny/report/report.html").exists()


def _shard(command: str, trial: Trial) -> None:
    trial.tbps(command)
    assert (trial.tmp_path / "shards/mals/tbps-index.json").exists()


def _chunks(command: str, trial: Trial) -> None:
    """Whole shards have nothing left to do; what it finds is checked in tests/data."""
    assert main([*command.split()[1:], str(shutil.copytree(trial.world.shards, trial.tmp_path / "shards"))]) == 0


def _index(command: str, trial: Trial) -> None:
    """One sample of another tool."""
    members = {"a.png": b"an image", "a.json": b'{"id": 1, "captions": ["A man.", "He walks."]}'}
    (trial.tmp_path / "tars").mkdir()
    with tarfile.open(trial.tmp_path / "tars/0.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert main([str(trial.tmp_path / "tars") if word == "DIR" else word for word in command.split()[1:]]) == 0


BENCHMARKS = {
    "methods.py": ["--help"],
    "step.py": ["--help"],
    "method_steps.py": ["--help"],
    "irra_step.py": ["--help"],
    "fusion.py": ["--help"],
    "gpu.py": ["--help"],
    "rerank.py": ["--help"],
    "scale.py": ["--help"],
    "loader.py": ["--images", "8", "--rounds", "2", "--source-px", "64", "32", "--image-px", "64", "64"],
}


def _benchmark(command: str, trial: Trial) -> None:
    """README's words are all it needs, and tests/benchmarks runs it and reads what it prints; or it is run small, here."""
    name = Path(command.split()[1]).name
    done = call(sys.executable, *command.split()[1:], *BENCHMARKS[name])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3
    if BENCHMARKS[name] == ["--help"]:
        assert "required" not in done.stdout
        tests = [file.read_text(encoding="utf-8") for file in (REPOSITORY / "tests/benchmarks").glob("test_*.py")]
        assert any(f'"{name}"' in text or f"import {Path(name).stem}\n" in text for text in tests)


def _doctor(command: str, trial: Trial) -> None:
    """Good or bad is this machine's affair; that it says so, and of what, is ours."""
    words = trial.words(command)
    shutil.copytree(trial.runs / "mars/tiny", trial.tmp_path / "runs/mars/tiny")
    done = call(*_script(words), "--runs", str(trial.tmp_path / "runs"))
    assert done.returncode in (0, 1) and "locks in " in done.stdout and "GiB free" in done.stdout, done.stdout + done.stderr


def _plan(command: str, trial: Trial) -> None:
    """Of the recipe's small twin; tests/planning plans README's own."""
    words = [{"cuhk-pedes": "tiny"}.get(word, word) for word in command.split()]
    done = call(*_script(words))
    assert done.returncode == 0 and "ZeRO-3" in done.stdout and " limits: " in done.stdout, done.stdout + done.stderr


def _dry_run(command: str, trial: Trial) -> None:
    """As it stands in README, but for the folder of runs. Real submissions: tests/cluster."""
    words = [sys.executable, *command.split()[1:], "--runs", str(trial.tmp_path)]
    done = call(*words)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --gpus-per-node=" in done.stdout and "launch.requeue" in done.stdout


def _batch_script(command: str, trial: Trial) -> None:
    """Bash can read it; tests/cluster submits it for real."""
    done = call("bash", "-n", command.split()[1])
    assert done.returncode == 0, done.stderr
    if "recipes/" in command:
        _recipe(command.split()[2:])


def _packages(command: str, trial: Trial) -> None:
    """CI installs the same ones."""
    ci = (REPOSITORY / ".ci/run").read_text()
    assert all(package in ci for package in command.split()[2:])


def _testbed(command: str, trial: Trial) -> None:
    """Whether it starts is tested in tests/cluster; here, that the command is there."""
    done = call(sys.executable, *command.split()[1:-1], "--help")
    assert done.returncode == 0 and "{start,stop,status}" in done.stdout


def _status(command: str, trial: Trial) -> None:
    done = call(sys.executable, *command.split()[1:], str(trial.runs))
    assert done.returncode == 0 and "mars/tiny" in done.stdout, done.stdout + done.stderr


def _results(command: str, trial: Trial) -> None:
    done = call(*_script(command.split()[:-1]), str(trial.runs))
    assert done.returncode == 0 and "mars" in done.stdout, done.stdout + done.stderr


def _script(words: list[str]) -> list[str]:
    """`tbps ...` as this Python's."""
    return [sys.executable, "-m", "tbps.command", *words[1:]]


HOW: dict[str, Callable[[str, Trial], None]] = {
    "make demo": _make,
    "make test": _make,
    "python -m tests.chaos --times 200": _chaos,
    "python -m tests.arrows": _arrows,
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e .": _install,
    "source .venv/bin/activate": _activate,
    "tbps data doctor data/CUHK-PEDES --benchmark cuhk-pedes": lambda command, trial: trial.tbps(command),
    "tbps convert ALBEF.pth weights/albef.safetensors": _convert,
    "python recipes/mars.py cuhk-pedes --data.root data/CUHK-PEDES": _train,
    "accelerate launch --num_processes 4 recipes/mars.py cuhk-pedes"
    " --data.root data/CUHK-PEDES --data.batch-pairs 32": _train,
    "torchrun --nproc_per_node 2 recipes/mars.py tiny": _two_processes,
    "python recipes/mars.py cuhk-pedes --help": _help,
    "python recipes/clip.py tiny": _train_start_of_bamg,
    "tbps evaluate runs/mars/cuhk-pedes --on rstpreid --root data/RSTPReid": _evaluate,
    "tbps evaluate runs/pretrain_mals/mars --on all --root data": _evaluate_on_all,
    "tbps report runs/mars/cuhk-pedes": _report,
    "tbps data shard data/MALS shards/mals --benchmark mals --chunks auto": _shard,
    "tbps data chunks": _chunks,
    "tbps data index DIR --benchmark cuhk-pedes --caption-key json:captions --identity-key json:id": _index,
    "accelerate launch recipes/pretrain_mals.py mars": _train,
    "accelerate launch recipes/mars.py cuhk-pedes --start.weights runs/pretrain_mals/mars": _train,
    "accelerate launch recipes/pretrain_coco.py coco --data.root data/COCO": _train,
    "accelerate launch recipes/laip.py cuhk-pedes --start.weights runs/pretrain_coco/coco": _train,
    "tbps convert --export runs/mars/cuhk-pedes mars.safetensors": _export,
    "tbps convert --export --merge runs/irra/cuhk-pedes irra.safetensors": _merge,
    "python -m launch.testbed start": _testbed,
    "apt-get install slurm-wlm munge": _packages,
    "tbps doctor": _doctor,
    "tbps plan mars cuhk-pedes --gpu h100 --gpus 64": _plan,
    "tbps doctor runs/mars/cuhk-pedes": _doctor,
    "sbatch slurm/pretrain_mals.sh": _batch_script,
    "sbatch slurm/pretrain_mals.sh aptm": _batch_script,
    "sbatch slurm/finetune.sh": _batch_script,
    "sbatch slurm/finetune.sh recipes/rasa.py rstpreid --data.root data/RSTPReid": _batch_script,
    "sbatch slurm/sweep.sh launch/sweeps/mars_table2.py": _batch_script,
    "python -m launch.submit recipes/mars.py cuhk-pedes --nodes 2 --gpus-per-node 4 --time 12:00:00"
    " --data.batch-pairs 64 --dry-run": _dry_run,
    "python -m launch.status": _status,
    "tbps results runs": _results,
    "python -m launch.sweep launch/sweeps/mars_table2.py --at-most 8 --dry-run": _dry_run,
    "accelerate launch --config_file launch/accelerate/multi_node.yaml --machine_rank 0 --main_process_ip HOST"
    " recipes/mars.py cuhk-pedes --data.batch-pairs 64": _train,
    "accelerate launch --config_file launch/accelerate/zero2.yaml recipes/mars.py cuhk-pedes --data.batch-pairs 32": _train,
    **{f"python benchmarks/{name}": _benchmark for name in BENCHMARKS if name != "scale.py"},
    "python benchmarks/scale.py --folder NEW_FOLDER": _benchmark,
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
    HOW[command](command, Trial(world, tmp_path, trained))


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
