"""How the commands of README.md and of its pages are tried at small size; test_readme.py says which is tried how.

They are started as a shell starts them, but for those whose words alone are tried: see `ready_python`."""

from __future__ import annotations

import importlib
import io
import json
import re
import shlex
import shutil
import sys
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from small_world import LAUNCH_TWO, REPOSITORY, World, call_anew, metrics, run_recipe
from small_world import call as call_ready

from tbps.command import main
from tbps.config.run import Run
from tbps.convert.weights import read_weights
from tbps.data.sample_order import BatchOrder, PairOrder
from tbps.recipe_command import read_overrides

sys.path += [str(REPOSITORY / "tests" / name) for name in ("parity", "serving")]

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
INDEX_OF_DEMO = "tbps index demo/cuhk-pedes/imgs demo/people.index --run runs/mars/tiny-pretrained"


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
            "demo/cuhk-pedes/imgs": self.world.cuhk_pedes / "imgs",
            "demo/people.index": self.tmp_path / "people.index",
            "runs/mars/tiny-pretrained": self.runs / "mars/tiny",
            "runs/pretrain_mals/mars": self.runs / "pretrain_mals/tiny",
            "runs/pretrain_coco/coco": self.runs / "pretrain_coco/tiny",
        }
        return [str(places.get(word, word)) for word in shlex.split(command)]

    def tbps(self, command: str) -> None:
        """A command of the console script, which must succeed."""
        shutil.copytree(self.runs / "mars/tiny", self.tmp_path / "runs/mars/tiny")
        assert main(self.words(command)[1:]) == 0


def make(command: str, trial: Trial) -> None:
    """What make would do, without doing it; CI runs these two for real."""
    done = call_anew(*command.split(), "--dry-run")
    assert done.returncode == 0, done.stderr
    expected = {"make demo": "-m recipes.demo --processes 2", "make test": "-m pytest"}[command]
    assert f".venv/bin/python {expected}" in done.stdout
    assert ".venv/bin/python -m pip install" in done.stdout or (REPOSITORY / ".venv/installed").exists()


def chaos(command: str, trial: Trial) -> None:
    """What it does is tested in test_recipe_kill.py; here, that the command is there."""
    done = call_ready(sys.executable, *command.split()[1:], "--help")
    assert done.returncode == 0 and "--times TIMES" in done.stdout


def arrows(command: str, trial: Trial) -> None:
    """What it finds is tested in test_arrows.py."""
    done = call_anew(sys.executable, *command.split()[1:])
    assert done.returncode == 0 and "recipes -> tbps.config, " in done.stdout, done.stdout


def install(command: str, trial: Trial) -> None:
    """Every package that setup.cfg asks for is pinned in the file that README names."""
    pinned = {line.split("==")[0].lower() for line in (REPOSITORY / "constraints.txt").read_text().splitlines()}
    asked = (REPOSITORY / "setup.cfg").read_text().partition("install_requires =")[2].partition("\n\n")[0]
    names = {re.split(r"[<>=]", line.strip())[0].lower() for line in asked.splitlines() if line.strip()}
    assert names and names <= pinned


def activate(command: str, trial: Trial) -> None:
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


def train(command: str, trial: Trial) -> None:
    """The settings are read and can be shared out; then the recipe's small twin takes a step from the same words."""
    words = trial.words(command)
    processes, words = _launched(words) if words[0] == "accelerate" else (1, words[1:])
    recipe, run = _recipe(words)
    order = BatchOrder(PairOrder(1000, seed=1), batch_pairs=run.data.batch_pairs, group_pairs=run.data.group_pairs)
    assert order.share_pairs(processes or 1) * (processes or 1) == run.data.batch_pairs
    given = words[words.index("--start.weights") :] if "--start.weights" in words else []
    assert run_recipe(recipe, "tiny", *trial.world.overrides(trial.tmp_path, recipe=recipe, max_steps=1), *given) == 0
    assert metrics(trial.tmp_path / recipe / "tiny")[0]["step"] == 1


def train_start_of_bamg(command: str, trial: Trial) -> None:
    """What it leaves starts BAMG's small twin."""
    train(command, trial)
    words = trial.world.overrides(trial.tmp_path, recipe="bamg", max_steps=1)
    assert run_recipe("bamg", "tiny", *words, "--start.weights", str(trial.tmp_path / "clip/tiny")) == 0


def two_processes(command: str, trial: Trial) -> None:
    words = command.split()
    assert words[:3] == ["torchrun", "--nproc_per_node", "2"]
    done = call_anew(*LAUNCH_TWO, *words[3:], *trial.world.overrides(trial.tmp_path, max_steps=1))
    assert done.returncode == 0, done.stderr
    assert metrics(trial.tmp_path / "mars/tiny")[0]["step"] == 1


def print_help(command: str, trial: Trial) -> None:
    done = call_anew(sys.executable, *command.split()[1:])
    assert done.returncode == 0 and "--data.root data/CUHK-PEDES" in done.stdout


def convert(command: str, trial: Trial) -> None:
    """A recorded step of the official code has weights under official names."""
    from recorded_step import Recorded

    torch.save({"model": Recorded("albef").part("weights.")}, trial.tmp_path / "ALBEF.pth")
    trial.tbps(command)
    tensors, about = read_weights(trial.tmp_path / "weights/albef.safetensors")
    assert about["kind"] == "albef" and any(name.startswith("online.") for name in tensors)


def export(command: str, trial: Trial) -> None:
    trial.tbps(command)
    tensors, _ = read_weights(trial.tmp_path / "mars.safetensors")
    assert tensors and not any(name.startswith(("momentum_encoder.", "queue.")) for name in tensors)


def merge(command: str, trial: Trial) -> None:
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


def evaluate(command: str, trial: Trial) -> None:
    trial.tbps(command)
    assert (trial.tmp_path / "runs/mars/tiny/results/cross-set-rstpreid-test.json").exists()


def evaluate_on_all(command: str, trial: Trial) -> None:
    """The world has two of the three; each is scored in tests/end_to_end/test_on_all.py."""
    folder = shutil.copytree(trial.runs / "pretrain_mals/tiny", trial.tmp_path / "tiny")
    words = [str(folder) if word == "runs/pretrain_mals/mars" else word for word in command.split()[1:-1]]
    assert main([*words, str(trial.world.folder)]) == 0
    assert (folder / "results/zero-shot-rstpreid-test.json").exists()


def report(command: str, trial: Trial) -> None:
    (trial.runs / "mars/tiny/report/report.html").unlink(missing_ok=True)
    trial.tbps(command)
    assert (trial.tmp_path / "runs/mars/tiny/report/report.html").exists()


def shard(command: str, trial: Trial) -> None:
    trial.tbps(command)
    assert (trial.tmp_path / "shards/mals/tbps-index.json").exists()


def chunks(command: str, trial: Trial) -> None:
    """Whole shards have nothing left to do; what it finds is checked in tests/data."""
    assert main([*command.split()[1:], str(shutil.copytree(trial.world.shards, trial.tmp_path / "shards"))]) == 0


def index(command: str, trial: Trial) -> None:
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


def benchmark(command: str, trial: Trial) -> None:
    """README's words are all it needs, and tests/benchmarks runs it and reads what it prints; or it is run small, here."""
    name = Path(command.split()[1]).name
    done = call_ready(sys.executable, *command.split()[1:], *BENCHMARKS[name])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 3
    if BENCHMARKS[name] == ["--help"]:
        assert "required" not in done.stdout
        tests = [file.read_text(encoding="utf-8") for file in (REPOSITORY / "tests/benchmarks").glob("test_*.py")]
        assert any(f'"{name}"' in text or f"import {Path(name).stem}\n" in text for text in tests)


def doctor(command: str, trial: Trial) -> None:
    """Good or bad is this machine's affair; that it says so, and of what, is ours."""
    words = trial.words(command)
    shutil.copytree(trial.runs / "mars/tiny", trial.tmp_path / "runs/mars/tiny")
    done = call_ready(*_script(words), "--runs", str(trial.tmp_path / "runs"))
    assert done.returncode in (0, 1) and "locks in " in done.stdout and "GiB free" in done.stdout, done.stdout + done.stderr


def plan(command: str, trial: Trial) -> None:
    """Of the recipe's small twin; tests/planning plans README's own."""
    words = [{"cuhk-pedes": "tiny"}.get(word, word) for word in command.split()]
    done = call_ready(*_script(words))
    assert done.returncode == 0 and "ZeRO-3" in done.stdout and " limits: " in done.stdout, done.stdout + done.stderr


def dry_run(command: str, trial: Trial) -> None:
    """As it stands in README, but for the folder of runs. Real submissions: tests/cluster."""
    words = [sys.executable, *command.split()[1:], "--runs", str(trial.tmp_path)]
    done = call_anew(*words)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --gpus-per-node=" in done.stdout and "launch.requeue" in done.stdout


def batch_script(command: str, trial: Trial) -> None:
    """Bash can read it; tests/cluster submits it for real."""
    done = call_anew("bash", "-n", command.split()[1])
    assert done.returncode == 0, done.stderr
    if "recipes/" in command:
        _recipe(command.split()[2:])


def packages(command: str, trial: Trial) -> None:
    """CI installs the same ones."""
    ci = (REPOSITORY / ".ci/run").read_text()
    assert all(package in ci for package in command.split()[2:])


def testbed(command: str, trial: Trial) -> None:
    """Whether it starts is tested in tests/cluster; here, that the command is there."""
    done = call_anew(sys.executable, *command.split()[1:-1], "--help")
    assert done.returncode == 0 and "{start,stop,status}" in done.stdout


def index_pictures(command: str, trial: Trial) -> None:
    """tests/search reads what is indexed."""
    small = {"photos": str(trial.world.mals), "photos.index": str(trial.tmp_path / "photos.index")}
    trial.tbps(shlex.join(small.get(word, word) for word in shlex.split(command)))


def search(command: str, trial: Trial) -> None:
    """tests/search reads what is found."""
    assert main(trial.words(INDEX_OF_DEMO)[1:]) == 0
    assert main(trial.words(command)[1:]) == 0


def serve(command: str, trial: Trial) -> None:
    """tests/serving asks more."""
    from served import serving

    assert main(trial.words(INDEX_OF_DEMO)[1:]) == 0
    with serving(Path(trial.words(command)[2]), trial.tmp_path / "said") as served:
        answer = urllib.request.urlopen(f"{served.address}api/search?q=a+woman+in+a+red+coat", timeout=60)
        assert len(json.load(answer)["hits"]) == 20


def status(command: str, trial: Trial) -> None:
    done = call_anew(sys.executable, *command.split()[1:], str(trial.runs))
    assert done.returncode == 0 and "mars/tiny" in done.stdout, done.stdout + done.stderr


def results(command: str, trial: Trial) -> None:
    done = call_anew(*_script(command.split()[:-1]), str(trial.runs))
    assert done.returncode == 0 and "mars" in done.stdout, done.stdout + done.stderr


def _script(words: list[str]) -> list[str]:
    """`tbps ...` as this Python's."""
    return [sys.executable, "-m", "tbps.command", *words[1:]]
