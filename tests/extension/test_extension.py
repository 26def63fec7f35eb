"""A method outside of the toolkit is trained, killed, resumed, evaluated, reported, listed and swept by its commands.

The commands are those of tbps/methods/README.md, tried at small size in a copy of `toy/` that lies elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from interrupted_run import Launch, newest_step
from small_world import LAUNCH_TWO, REPOSITORY, World, assert_one_sentence, call, launch, metrics, spread

from tbps.runs.checkpoint import read_tensors

PAGE = REPOSITORY / "tbps/methods/README.md"
TRAIN = "torchrun --nproc_per_node 2 lab/toy/recipe.py tiny --data.root demo/cuhk-pedes"
COMMANDS = (
    "export PYTHONPATH=$PWD/lab",
    "python lab/toy/recipe.py tiny --help",
    TRAIN,
    "tbps evaluate runs/toy/tiny",
    "tbps report runs/toy/tiny",
    "tbps results runs",
    "python -m launch.sweep lab/toy/sweep.py --eager --data.root demo/cuhk-pedes",
)
STEPS = 12


@dataclass(frozen=True)
class Lab:
    """A folder with the method, and where its runs go."""

    folder: Path
    world: World

    @property
    def small(self) -> tuple[str, ...]:
        """What makes a run short; later overrides win."""
        place = ("--runs", str(self.folder / "runs"), "--data.cache", str(self.folder / "cache/shards"))
        steps = ("--schedule.max-steps", str(STEPS), "--schedule.epochs", "4", "--schedule.warmup-steps", "2")
        often = ("--evaluation.every-epochs", "2", "--loop.save-steps", "4", "--loop.log-steps", "1")
        return (*place, *steps, *often, "--loop.tensorboard", "False")

    @property
    def environment(self) -> Mapping[str, str]:
        """As the page says."""
        return {"PYTHONPATH": f"{self.folder / 'lab'}{os.pathsep}{REPOSITORY}"}

    def words(self, command: str, *more: str) -> list[str]:
        """The command's words with this folder's things in place of the page's, and more of them."""
        programs = {"python": (sys.executable,), "tbps": (sys.executable, "-m", "tbps.command"), "torchrun": LAUNCH_TWO[:3]}
        first, *rest = shlex.split(command)
        places = {"demo/cuhk-pedes": self.world.cuhk_pedes, "runs": self.folder / "runs"}
        places |= {name: self.folder / name for name in ("runs/toy/tiny", "lab/toy/recipe.py", "lab/toy/sweep.py")}
        return [*programs[first], *(str(places.get(word, word)) for word in rest), *more]

    def call(self, command: str, *more: str) -> subprocess.CompletedProcess[str]:
        """To its end."""
        return call(*self.words(command, *more), timeout_s=600, **self.environment)

    @property
    def run_folder(self) -> Path:
        """Of the page's run."""
        return self.folder / "runs/toy/tiny"

    def digests(self) -> dict[str, str]:
        """Of everything in the last checkpoint."""
        manifest = json.loads((self.run_folder / f"checkpoints/step-{STEPS:08d}/manifest.json").read_text())
        return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def make_lab(folder: Path, world: World) -> Lab:
    """A copy of the method, outside of the repository."""
    shutil.copytree(Path(__file__).with_name("toy"), folder / "lab/toy", ignore=shutil.ignore_patterns("__pycache__"))
    return Lab(folder=folder, world=world)


@pytest.fixture(scope="module")
def lab(world: World, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """After a whole training."""
    lab = make_lab(tmp_path_factory.mktemp("extension"), world)
    done = lab.call(TRAIN, *lab.small)
    assert done.returncode == 0, done.stderr
    return lab


def test_the_page_names_these_commands_and_files() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert tuple(re.findall(r"^ {4}((?:export|python|torchrun|tbps) .*)$", text, re.MULTILINE)) == COMMANDS
    files = sorted(file.name for file in Path(__file__).with_name("toy").glob("*.py") if file.name != "__init__.py")
    assert sorted(set(re.findall(r"`toy/(\w+\.py)`", text))) == files
    assert "tbps/methods/README.md" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_it_says_what_its_settings_are(world: World, tmp_path: Path) -> None:
    done = make_lab(tmp_path, world).call("python lab/toy/recipe.py tiny --help")
    assert done.returncode == 0 and "--method.hidden-letters" in done.stdout, done.stderr
    assert "Share of a caption's letters that training hides." in done.stdout


@pytest.mark.slow
def test_it_trains_and_is_evaluated_reported_and_listed(lab: Lab) -> None:
    lines = metrics(lab.run_folder)
    first, last = lines[0], [line for line in lines if "split" not in line][-1]
    assert last["step"] == STEPS and last["loss/sigmoid"] < first["loss/sigmoid"]
    assert first["scale"] > 0 and "loss/scale" not in first
    result = json.loads((lab.run_folder / "results/final-cuhk-pedes-test.json").read_text())
    assert result["text_to_image"]["reranked"] is None and result["text_to_image"]["coarse"]["mAP"] > 0
    evaluated = lab.call("tbps evaluate runs/toy/tiny")
    assert evaluated.returncode == 0 and "rank_1" in evaluated.stdout.lower().replace("-", "_"), evaluated.stderr
    reported = lab.call("tbps report runs/toy/tiny")
    assert reported.returncode == 0, reported.stderr
    report = (lab.run_folder / "report/report.html").read_text()
    assert "hidden_letters" in report and "Where two persons part" in report
    listed = lab.call("tbps results runs")
    assert listed.returncode == 0 and "toy" in listed.stdout, listed.stderr


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_bits(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in lab.environment.items():
        monkeypatch.setenv(name, value)
    killed = make_lab(tmp_path, lab.world)
    words = killed.words(TRAIN, *killed.small)
    for step in (4, 8):
        started = Launch(words, tmp_path / "log", anew=True)
        try:
            while newest_step(killed.run_folder) < step:
                assert started.launcher.poll() is None, started.log.read_text()
                time.sleep(0.02)
        finally:
            started.kill()  # launcher, ranks and loader workers, by SIGKILL
    assert "going on from" in started.log.read_text()
    assert killed.call(TRAIN, *killed.small).returncode == 0
    assert killed.digests() == lab.digests()
    assert metrics(killed.run_folder) == metrics(lab.run_folder)


RECIPE = "python lab/toy/recipe.py tiny --data.root demo/cuhk-pedes"
SAME = ("--evaluation.test", "False", "--data.workers", "1")


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """After the same training by one process, a batch at once."""
    alone = make_lab(tmp_path_factory.mktemp("alone"), world)
    done = alone.call(RECIPE, *alone.small, *SAME)
    assert done.returncode == 0, done.stderr
    return alone


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2], ids=["DDP", "ZeRO-2"])
def test_its_loss_is_of_the_whole_batch_however_it_is_shared_out(alone: Lab, tmp_path: Path, stage: int) -> None:
    shared = make_lab(tmp_path / "shared", alone.world)
    words = shared.words(RECIPE, *shared.small, *SAME, "--data.micro-batch-pairs", "8")[1:]
    done = call(*launch(2), *words, timeout_s=600, **shared.environment, **spread(stage))
    assert done.returncode == 0, done.stderr
    assert ("ZeRO-2" in done.stderr) == (stage == 2)
    for ours, theirs in zip(metrics(shared.run_folder), metrics(alone.run_folder), strict=True):
        if "split" not in ours:
            assert ours == pytest.approx(theirs, rel=1e-5), f"step {ours['step']}"
    file = f"checkpoints/step-{STEPS:08d}/model.safetensors"
    for name, tensor in read_tensors(shared.run_folder / file).items():
        bound = 1e-4 * float(tensor.abs().max())
        assert (tensor - read_tensors(alone.run_folder / file)[name]).abs().max() < bound, name


@pytest.mark.slow
def test_the_doctor_counts_what_its_images_take(lab: Lab, tmp_path: Path) -> None:
    examined = make_lab(tmp_path, lab.world)
    config = json.loads((lab.run_folder / "config.json").read_text())
    config["run"]["data"] |= {"image_px": [384, 128], "micro_batch_pairs": 8, "workers": 1}
    examined.run_folder.mkdir(parents=True)
    (examined.run_folder / "config.json").write_text(json.dumps(config))
    found = examined.call("tbps doctor runs/toy/tiny")  # four ahead, and the four of a step of one process
    assert f"take {8 * 8 * 3 * 384 * 128 / 2**20:.0f} MiB (1 workers a process)" in found.stdout, found.stderr


@pytest.mark.slow
def test_it_is_swept(lab: Lab, tmp_path: Path) -> None:
    swept = make_lab(tmp_path, lab.world)
    done = swept.call("python -m launch.sweep lab/toy/sweep.py --eager --data.root demo/cuhk-pedes", *swept.small)
    assert done.returncode == 0 and "2 points: 2 finished" in done.stdout, done.stdout + done.stderr
    listed = swept.call("tbps results runs")
    assert "Toy: letters hidden in training" in listed.stdout, listed.stdout + listed.stderr


@pytest.mark.slow
def test_a_field_that_nobody_knows_is_refused(world: World, tmp_path: Path) -> None:
    other = make_lab(tmp_path, world)
    config = tmp_path / "lab/toy/config.py"
    config.write_text(config.read_text().replace('fields=("camera",)', 'fields=("shoes",)'))
    done = other.call("python lab/toy/recipe.py tiny --data.root demo/cuhk-pedes", *other.small)
    assert done.returncode == 2
    assert_one_sentence(done.stderr.splitlines()[-1], "'shoes'", "camera")
    assert not other.run_folder.exists()
