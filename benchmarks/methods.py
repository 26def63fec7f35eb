"""What the methods reach at equal steps: `tiny` of every recipe, several seeds, one synthetic CUHK-PEDES; mean +- std.

    python benchmarks/methods.py [--recipes albef laip clip] [--seeds 42 43 44] [--steps 2000] [--at-a-time 2]

Writes the world, trains every recipe with every seed, and writes benchmarks/methods.md. With --pretrain-steps, all start
from one ALBEF that was trained on other people in COCO's format (recipes/pretrain_coco.py), as the papers do from
ALBEF.pth; name recipes of ALBEF's kind then. The last weights are tested: nothing is chosen on val or test. Interrupted,
the same command goes on; what is finished is not trained again. It says at the start how long that takes, about an hour
and a half on two free cores, and after every run how long it still takes; more --steps and --identities tell the methods
further apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.planned_run import PlannedRun, check_folder, plan_run
from launch.run_state import is_finished
from tbps.config.data import Benchmark
from tbps.config.encoders import Bert
from tbps.config.lora import Lora
from tbps.config.needs import Text
from tbps.data.annotations import read_annotations
from tbps.reporting.results import read_results
from tbps.reporting.summary import spread

ROOT = Path(__file__).parents[1]
IMAGE_PX = ("96", "48")
WORLD = ("--image-px", *IMAGE_PX, "--twin-rate", "0.1", "--wrong-detail-rate", "0.02")
RECIPES = ("albef", "rasa", "aga", "laip", "mars", "clip", "irra", "bilma", "bamg")
BATCH_PAIRS = 32  # of every `tiny`
# Ours: at the rate of `tiny`, 2e-3 without clipping, and in its groups of 16, contrast alone learns little in these steps.
CHANGES = (
    *("--optim.lr", "1e-3", "--optim.clip-norm", "1", "--data.keep-sides", "True"),
    *("--data.group-pairs", str(BATCH_PAIRS)),
)
# Ours: a second layer of text binds colours to their garments; and a momentum encoder that follows as fast as that of `tiny`
# (0.9) upsets contrast in a training as long as this: ALBEF stood at chance after 2000 steps. After 600, its mAP was 2.4
# at 0.9 and 6.9 at 0.99 (chance: 1.1); without soft targets 6.2 and 7.7; with a longer queue than that of `tiny` less.
BERT_CHANGES = ("--method.momentum", "0.99", "--method.bert.fusion-layer", "2")
START_S = 20.0
"""Seconds of one core from the start of a run to its first step, and from its last to the table."""
STEP_S: Mapping[str, float] = {
    "albef": 0.10,
    "rasa": 0.21,
    "aga": 0.22,
    "laip": 0.12,
    "mars": 0.26,
    "clip": 0.04,
    "irra": 0.20,
    "bilma": 0.20,
    "bamg": 0.30,
}
"""Seconds of one core that a step took, two runs at a time on two cores."""
SETTINGS = ("--evaluation.every-epochs", "0", "--evaluation.selection", "last")
FIRST_STAGE = 30 / 45  # share of the epochs, where a recipe has two stages (LAIP, Sec. III-A)
METRICS = ("rank_1", "mAP")
RANKINGS = ("coarse", "reranked")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is compared, and where its files lie."""

    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    pretrain_steps: int
    identities: int
    pretrain_images: int
    at_a_time: int
    folder: Path
    overrides: tuple[str, ...]

    @property
    def cuhk_pedes(self) -> Path:
        """What the methods are trained, and tested, on."""
        return self.folder / "cuhk-pedes"

    @property
    def coco(self) -> Path:
        """What they start from was trained on."""
        return self.folder / "coco"

    @property
    def start(self) -> Path:
        """Run folder of the pretrained ALBEF."""
        return self.folder / "runs" / "pretrain_coco" / "start"

    def run_folder(self, recipe: str, seed: int) -> Path:
        """Of one run."""
        return self.folder / "runs" / recipe / f"seed-{seed}"

    def check_start(self) -> None:
        """ValueError: a recipe cannot begin where the others do."""
        for recipe in self.recipes if self.pretrain_steps else ():
            if (tokeniser := tiny_of(recipe).text.tokeniser) != "bert":
                raise ValueError(
                    f"recipes/{recipe}.py reads {tokeniser} tokens, expected BERT word pieces: with --pretrain-steps all"
                    " start from one ALBEF; leave it out of --recipes, or begin at random weights"
                )

    def plan_start(self) -> PlannedRun:
        """ALBEF by ITC and ITM: what stands for ALBEF.pth."""
        return self._plan("pretrain_coco", self.start.name, self.coco, "coco", self.pretrain_steps)

    def plan_runs(self) -> list[PlannedRun]:
        """Every recipe with the first seed, then with the next."""
        more = (*(("--start.weights", str(self.start)) if self.pretrain_steps else ()), *self.overrides)
        return [
            self._plan(recipe, f"seed-{seed}", self.cuhk_pedes, "cuhk-pedes", self.steps, "--loop.seed", str(seed), *more)
            for seed in self.seeds
            for recipe in self.recipes
        ]

    def _plan(self, recipe: str, name: str, root: Path, benchmark: Benchmark, steps: int, *overrides: str) -> PlannedRun:
        """`tiny` of a recipe for so many steps. ValueError where the folder holds a run of other settings."""
        tiny = tiny_of(recipe)
        settings = ["--runs", self.folder / "runs", "--name", name, "--data.root", root]
        if tiny.bert_layers:  # a small world has fewer words than `tiny` expects
            vocabulary = self.folder / "vocab.txt"
            num_words = len(vocabulary.read_text(encoding="utf-8").splitlines())
            settings += ["--data.captioning.vocabulary", vocabulary, "--method.bert.vocabulary-size", num_words]
            settings += [*BERT_CHANGES, "--method.bert.layers", tiny.bert_layers]
        num_pairs = len(read_annotations(root, benchmark).split("train").caption)
        epochs = steps * BATCH_PAIRS / num_pairs
        settings += ["--data.batch-pairs", BATCH_PAIRS, "--schedule.epochs", epochs]
        if tiny.two_stages:
            settings += ["--schedule.second-stage-epoch", epochs * FIRST_STAGE]
        if tiny.adapted:  # as all others, it trains whole encoders from random weights
            none = Lora()
            settings += ["--lora.targets", none.targets, "--lora.rank", none.rank, "--lora.alpha", none.alpha]
            settings += ["--start.weights", ""]
        settings += ["--loop.tensorboard", False, "--data.workers", 0, *CHANGES, *SETTINGS]
        planned = plan_run(recipe_file(recipe), "tiny", [*map(str, settings), *overrides])
        check_folder(planned)
        return planned

    def train(self, planned: PlannedRun) -> None:
        """In a process of its own, where it is not done."""
        if not is_finished(planned.folder, planned.run):
            log = self.folder / "logs" / f"{planned.run.recipe}-{planned.run.name}.log"
            call([sys.executable, *planned.arguments], log=log)

    def train_all(self) -> None:
        """What they start from first, and its score as it is; then every run, some at a time. A failure begins no more."""
        runs = self.plan_runs()
        if self.pretrain_steps:
            self.train(self.plan_start())
            if not (self.start / "results" / "zero-shot-cuhk-pedes-test.json").exists():
                tbps("evaluate", str(self.start), "--on", "cuhk-pedes", "--root", str(self.cuhk_pedes))
        waiting = [planned for planned in runs if not is_finished(planned.folder, planned.run)]
        say(f"{len(waiting)} of {len(runs)} runs to train{self.forecast([planned.run.recipe for planned in waiting])}")
        started = time.monotonic()
        with ThreadPoolExecutor(self.at_a_time) as pool:
            for done, _ in enumerate(pool.map(self.train, waiting), 1):
                left = (time.monotonic() - started) / done * (len(waiting) - done)
                say(f"{done} of {len(waiting)} trained, about {left / 60:.0f} minutes left")

    def forecast(self, recipes: Sequence[str]) -> str:
        """How long runs of these recipes take, in words; empty where a recipe's steps were not measured."""
        if not set(recipes) <= STEP_S.keys():
            return ""
        hours = sum(START_S + self.steps * STEP_S[recipe] for recipe in recipes) / self.at_a_time / 3600
        return f", {self.at_a_time} at a time: about {hours:.1f} hours on so many free cores"

    def write_world(self) -> None:
        """The data sets and the vocabulary of their captions; whole ones are left as they are."""
        worlds: list[tuple[Path, int, tuple[str, ...]]] = [(self.cuhk_pedes, self.identities, ("--seed", "0"))]
        if self.pretrain_steps:
            worlds.append((self.coco, self.pretrain_images, ("--seed", "1", "--no-parsing")))
        for root, people, more in worlds:
            words = ("synth", str(root), "--benchmark", root.name, "--identities", str(people), *more, *WORLD)
            if not is_complete(root, people):
                tbps("data", *words)
        if not (self.folder / "vocab.txt").exists():
            sources = [f"{root.name}={root}" for root, _, _ in worlds]
            tbps("data", "vocabulary", str(self.folder / "vocab.txt"), *sources)


@dataclass(frozen=True)
class Tiny:
    """What the comparison must know of a recipe's `tiny`."""

    text: Text
    """What its text encoder reads."""
    bert_layers: int
    """Of BERT, with the second layer of text: one more where the cross encoder starts behind it. 0 = no BERT."""
    two_stages: bool
    adapted: bool
    """Whether it trains adapters on frozen encoders."""


def tiny_of(recipe: str) -> Tiny:
    """As the recipe has it, before anything is changed."""
    run = plan_run(recipe_file(recipe), "tiny", []).run
    bert: Bert | None = getattr(run.method, "bert", None)
    return Tiny(
        text=run.method.needs(run.data.image_px).text,
        bert_layers=0 if bert is None else bert.layers + (not bert.full_cross_attention),
        two_stages=run.schedule.second_stage_epoch > 0,
        adapted=run.lora.on,
    )


def recipe_file(recipe: str) -> str:
    """Of a recipe by its name."""
    return str(ROOT / "recipes" / f"{recipe}.py")


def is_complete(root: Path, people: int) -> bool:
    """Whether a world was written to its end. ValueError: one of another size."""
    marker = root / "synthetic_world.json"
    if not marker.exists():
        return False
    world = json.loads(marker.read_text(encoding="utf-8"))
    if world["num_identities"] != people:
        raise ValueError(f"{root} holds {world['num_identities']} people, expected {people}; give another --folder")
    return bool(world["complete"])


def tbps(*arguments: str) -> None:
    """A command of the console script."""
    call([sys.executable, "-m", "tbps.command", *arguments])


def call(command: Sequence[str], log: Path | None = None) -> None:
    """Run a command in the repository. ValueError with the end of what it said where it fails."""
    started = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, **output)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(done.stdout, encoding="utf-8")
    what = log.stem if log else shlex.join(command[2:6])
    if done.returncode:
        said = (done.stdout.strip().splitlines() or ["nothing"])[-1]
        raise ValueError(
            f"{what} ended with status {done.returncode}, saying last: {said}" + (f" (log: {log})" if log else "")
        )
    say(f"{what}: {time.monotonic() - started:.0f} s")


def say(sentence: str) -> None:
    """A line for whoever waits."""
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()


def results_of(folder: Path, steps: int) -> dict[str, Any]:
    """The test of one run on the world. ValueError where it was trained for another number of steps."""
    results = next(results for results in read_results(folder) if results["benchmark"] == "cuhk-pedes")
    if results["step"] != steps:
        raise ValueError(
            f"{folder} was tested after {results['step']} steps, expected {steps}; its schedule is not `epochs`"
        )
    return results


def markdown(bench: Bench, command: str) -> str:
    """The table with everything that decides its numbers."""
    scored = {
        recipe: [results_of(bench.run_folder(recipe, seed), bench.steps) for seed in bench.seeds] for recipe in bench.recipes
    }
    if bench.pretrain_steps:
        scored["pretrain_coco, not fine-tuned"] = [results_of(bench.start, bench.pretrain_steps)]
    rows = [row(name, [results["text_to_image"] for results in each]) for name, each in scored.items()]
    everything = [results for each in scored.values() for results in each]
    rows.append(row("chance", [dict.fromkeys(RANKINGS, everything[0]["text_to_image"]["chance"])]))
    return PAGE.format(command=command, facts=facts(bench, everything), rows="\n".join(rows))


def row(name: str, each: Sequence[dict[str, Any]]) -> str:
    """Mean and deviation of every number over seeds; a dash where a method has no matcher to re-rank by."""
    cells = [
        str(spread([float(way[ranking][metric]) for way in each])) if each[0][ranking] else "-"
        for ranking in RANKINGS
        for metric in METRICS
    ]
    return f"| {name} | {' | '.join(cells)} |"


PAGE = """# The methods at equal steps on a synthetic world

    {command}

{facts}

| recipe | rank-1, similarity | mAP, similarity | rank-1, re-ranked | mAP, re-ranked |
|---|---|---|---|---|
{rows}

Text to image on the test split, 0-100; mean +- sample standard deviation over seeds. So small a world and so short a
training say whether a method learns, not which is the best on real data: for that, see the papers' figures in README.md.
Seed 42 had a part in the settings: the momentum was chosen by ALBEF's test scores after 600 steps; IRRA's loss weights and
logit scale in `tiny`, and BiLMa's weights after them, by those of an earlier form of this comparison. Nothing was tuned for
another method alone.
"""


def facts(bench: Bench, everything: Sequence[dict[str, Any]]) -> str:
    """What was trained and tested, in words; nothing about the machine's speed."""
    size, versions = everything[0]["size"], everything[0]["versions"]
    directions = [results["text_to_image"] for results in everything]
    depths = sorted({direction["reranked"]["rule"]["rerank_k"] for direction in directions if direction["reranked"]})
    reranked = (
        f"the best {' or '.join(map(str, depths))} images of a caption are re-ranked" if depths else "nothing is re-ranked"
    )
    num_pairs = len(read_annotations(bench.cuhk_pedes, "cuhk-pedes").split("train").caption)
    start = f"the same weights: ALBEF after {bench.pretrain_steps} steps on {bench.pretrain_images} images in COCO's format"
    lines = [
        f"- `tiny` of each recipe, {bench.steps} steps of {BATCH_PAIRS} pairs (of {num_pairs}), one process, fp32, the last"
        f" weights; {' '.join(CHANGES)}; with BERT {' '.join(BERT_CHANGES)}"
        + (f"; {' '.join(bench.overrides)}" if bench.overrides else ""),
        f"- seeds {', '.join(map(str, bench.seeds))}; all start from {start if bench.pretrain_steps else 'random weights'}",
        f"- test: {size['captions']} captions, {size['images']} images, {size['identities']} people that training never saw;"
        f" {reranked}" + (", where a method has a matcher" if depths else ""),
        f"- Python {versions['python']}, torch {versions['torch']}",
    ]
    return "\n".join(lines)


def without_places(arguments: Sequence[str]) -> list[str]:
    """The words that decide the numbers: not where files lie, nor how many runs go at a time."""
    places = ("--folder", "--out", "--at-a-time")
    kept = [word for word, before in zip(arguments, ["", *arguments]) if word not in places and before not in places]
    return [word for word in kept if not word.startswith(tuple(f"{place}=" for place in places))]


def read_arguments(arguments: Sequence[str]) -> tuple[Bench, Path]:
    """What is compared and where the table goes; further words are overrides of every run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="files of recipes/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps of every run")
    parser.add_argument("--pretrain-steps", type=int, default=0, help="of what they start from; 0 = random weights")
    parser.add_argument("--identities", type=int, default=2000, help="people of the world, three quarters to train on")
    parser.add_argument("--pretrain-images", type=int, default=2500, help="images of the world in COCO's format")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark"), help="where worlds and runs lie")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/methods.md"), help="the table")
    parser.add_argument("--at-a-time", type=int, default=2, help="runs at a time, one thread each")
    given, overrides = parser.parse_known_args(arguments)
    for name in ("steps", "at_a_time"):
        if getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(given, name)}, expected 1 or more")
    for recipe in given.recipes:
        if not Path(recipe_file(recipe)).is_file():
            parser.error(f"recipes/{recipe}.py is not there; name files of recipes/ without .py")
    bench = Bench(
        recipes=tuple(given.recipes),
        seeds=tuple(given.seeds),
        at_a_time=given.at_a_time,
        steps=given.steps,
        pretrain_steps=given.pretrain_steps,
        identities=given.identities,
        pretrain_images=given.pretrain_images,
        folder=given.folder.absolute(),
        overrides=tuple(overrides),
    )
    return bench, given.out


def main(arguments: Sequence[str]) -> int:
    """Write the world, train, write the table; the exit status."""
    bench, out = read_arguments(arguments)
    try:
        bench.check_start()
        bench.write_world()
        bench.train_all()
        text = markdown(bench, shlex.join(["python", "benchmarks/methods.py", *without_places(arguments)]))
    except ValueError as error:
        sys.stderr.write(f"methods.py: {error}\n")
        return 2
    out.write_text(text, encoding="utf-8")
    sys.stdout.write(f"\n{text}\n{out}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
