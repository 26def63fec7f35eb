"""A recipe in several processes, interrupted at random moments as a cluster does it, and what must be equal at its end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ready_python import Ready, kill_writers
from small_world import (
    ADAPTED,
    AS_RECIPES_TRAIN,
    CLIP_AS_RECIPES_TRAIN,
    CLIP_FAMILY,
    LAUNCH_TWO,
    REPOSITORY,
    World,
    call,
    environment,
    metrics,
    spread,
)

STEPS = 12
END_S = 120.0
"""Longest time from an interruption to the end of all processes."""
TARGETS = {"everything": 4, "a rank": 2, "a worker": 1, "the launcher": 1}
"""What a signal is sent to, and how often. Nothing ends ranks whose launcher was killed but the cluster: then all are."""
EARLY = 0.25
"""Share of interruptions before training begins."""
LATE = 0.5
"""From this moment of the training on, a step is waited for."""


def arguments(world: World, runs: Path, *, recipe: str = "mars") -> list[str]:
    """Validations after steps 4 or 5, 9 and 12, checkpoints every 4 steps as well, the test at the end."""
    real = CLIP_AS_RECIPES_TRAIN if recipe in (*CLIP_FAMILY, *ADAPTED) else AS_RECIPES_TRAIN
    changes = ["--schedule.epochs", "3", "--loop.save-steps", "4", "--loop.log-steps", "1", *real]
    return ["tiny", *world.overrides(runs, recipe=recipe, max_steps=STEPS), *changes]


def on_adapters(world: World, folder: Path, *, recipe: str = "mars") -> list[str]:
    """Words that make `arguments` a run with adapters on frozen encoders: those of two steps of the recipe, which this
    trains in `folder`, in a process of its own."""
    short = ["--schedule.max-steps", "2", "--evaluation.test", "False", "--evaluation.every-epochs", "0"]
    words = [*arguments(world, folder, recipe=recipe), "--name", "base", *short]
    done = call(sys.executable, f"recipes/{recipe}.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return ["--start.weights", str(folder / recipe / "base"), "--lora.targets", "q,k,v,out", "--lora.rank", "4"]


def end_of(run_folder: Path) -> dict[str, Any]:
    """What must be equal: final weights, momentum encoder, queue, optimiser state, log, evaluations, results but times."""
    manifest = json.loads((run_folder / f"checkpoints/step-{STEPS:08d}/manifest.json").read_text())
    results = json.loads((run_folder / "results/final-cuhk-pedes-test.json").read_text())
    return {
        "checkpoint": {name: entry["sha256"] for name, entry in manifest["files"].items()},
        "left over": [entry.name for entry in (run_folder / "checkpoints").iterdir() if not entry.name.startswith("step-")],
        "metrics": metrics(run_folder),
        "evaluations": {file.name: file.read_text() for file in sorted((run_folder / "evaluations").iterdir())},
        "results": {name: value for name, value in results.items() if name not in ("seconds", "date")},
    }


def assert_same_end(run_folder: Path, undisturbed: Path) -> None:
    """AssertionError names what differs."""
    found, expected = end_of(run_folder), end_of(undisturbed)
    assert {"model.safetensors", "optimiser.safetensors"} <= found["checkpoint"].keys()
    for what, value in expected.items():
        if found[what] != value:
            raise AssertionError(f"{what} of {run_folder} differ from {undisturbed}:\n{found[what]}\n{value}")


def newest_step(run_folder: Path) -> int:
    """The step of the last checkpoint, 0 where there is none."""
    return max((int(folder.name[-8:]) for folder in (run_folder / "checkpoints").glob("step-*")), default=0)


class Launch:
    """One start of a command: a launcher, its ranks, their loader workers; with their imports done, unless `anew`."""

    def __init__(self, words: list[str], log: Path, *, stage: int = 0, anew: bool = False) -> None:
        self.log = log
        self.launcher: subprocess.Popen[bytes] | Ready
        with log.open("wb") as file:
            around = environment(**spread(stage))
            if anew:
                self.launcher = subprocess.Popen(words, cwd=REPOSITORY, env=around, stdout=file, stderr=file)
            else:
                self.launcher = Ready(words, folder=REPOSITORY, variables=around, output=log, errors=log)

    def ranks(self) -> list[int]:
        """Those that live now."""
        return _children(self.launcher.pid)

    def workers(self) -> list[int]:
        """Those that live now, of all ranks."""
        return [worker for rank in self.ranks() for worker in _children(rank)]

    def everything(self) -> list[int]:
        """The launcher first."""
        return [self.launcher.pid, *self.ranks(), *self.workers()]

    def ended_within(self, wait_s: float) -> bool:
        """Wait for the launcher."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.launcher.wait(wait_s)
        return self.launcher.returncode is not None

    def has_begun(self) -> bool:
        """Whether training is about to begin or go on, or has ended: until then, imports."""
        return self.launcher.poll() is not None or bool(re.search(r"^(starting|going on) from ", self.log.read_text(), re.M))

    def wait_for_begin(self) -> None:
        """AssertionError after a long time."""
        deadline = time.monotonic() + END_S
        while not self.has_begun():
            assert time.monotonic() < deadline, f"does not begin to train:\n{self.log.read_text()}"
            time.sleep(0.02)

    def wait_for_step(self) -> None:
        """Until it has told of one, or has ended, as where only the test was left. AssertionError after a long time."""
        deadline = time.monotonic() + END_S
        while self.launcher.poll() is None and not self.step():
            assert time.monotonic() < deadline, f"makes no step:\n{self.log.read_text()}"
            time.sleep(0.02)

    def step(self) -> int:
        """The last step that this start has told of, 0 before the first."""
        told = re.findall(rf"^step (\d+)/{STEPS} ", self.log.read_text(), re.M)
        return int(told[-1]) if told else 0

    def kill(self) -> None:
        """SIGKILL for all that still runs."""
        if self.launcher.poll() is None:
            kill_tree(self.launcher.pid)
            self.launcher.wait()


def kill_tree(pid: int) -> None:
    """SIGKILL for a process and all its descendants, whatever their groups: a launcher gives its workers their own."""
    pids = [pid]
    for parent in pids:
        _send(parent, signal.SIGSTOP)  # it must not start more meanwhile
        pids += _children(parent)
    for one in pids:
        _send(one, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, children.read_text().split())
    return found


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(frozen=True)
class Interruption:
    """What is done to a start, and when."""

    number: signal.Signals
    target: str
    early: bool
    """In the start-up, which is long, but where little can go wrong."""
    moment: float
    """0 to 1: how far into that part of the undisturbed run."""

    def do(self, launch: Launch, draws: random.Random) -> bool:
        """Send the signal; whether the start must end of it. Where its target does not live yet, everything gets it."""
        victims = {"a rank": launch.ranks, "a worker": launch.workers, "the launcher": lambda: [launch.launcher.pid]}
        living = victims[self.target]() if self.target in victims else []
        if not living or (self.target == "the launcher" and self.number == signal.SIGKILL):
            if self.number == signal.SIGKILL:
                kill_tree(launch.launcher.pid)
            else:
                for pid in launch.everything():
                    _send(pid, self.number)
            return True
        _send(draws.choice(living), self.number)
        return self.target != "a worker"


class Chaos:
    """Runs that are interrupted and started again by the same command, one after another, each compared at its end.

    say: takes a line about each interruption. stage: of ZeRO; 0 = DDP. more: words of the command, after `arguments`.
    anew: every process imports by itself, as from a shell.
    """

    def __init__(
        self,
        world: World,
        folder: Path,
        *,
        seed: int,
        say: Callable[[str], object],
        recipe: str = "mars",
        stage: int = 0,
        more: Sequence[str] = (),
        anew: bool = False,
    ) -> None:
        self.world, self.folder, self.say = world, folder, say
        self.recipe, self.stage, self.more, self.anew = recipe, stage, more, anew
        self.draws = random.Random(seed)
        self.made = {signal.SIGKILL: 0, signal.SIGTERM: 0}
        self.runs = 0
        self.undisturbed = folder / f"undisturbed/{recipe}/tiny"
        self.starting_s, self.training_s = self._leave_undisturbed()

    def interrupt(self, times: int, *, until: float = float("inf")) -> None:
        """Make so many interruptions, or stop at `until` (of time.monotonic). AssertionError: a difference, a lost step."""
        goal = sum(self.made.values()) + times
        while sum(self.made.values()) < goal and time.monotonic() < until:
            self.runs += 1
            runs = self.folder / f"run-{self.runs}"
            run_folder = runs / self.recipe / "tiny"
            while not self._start(runs, goal, until):
                pass
            assert_same_end(run_folder, self.undisturbed)
            shutil.rmtree(runs)

    def _start(self, runs: Path, goal: int, until: float) -> bool:
        """One start of a run and what happens to it; whether it reached the end."""
        launch = self._launch(runs, self.folder / "log")
        began, disturbed, must_end = time.monotonic(), False, False
        try:
            while not must_end and sum(self.made.values()) < goal and time.monotonic() < until:
                what, wait_s = self._draw(), self.starting_s
                if not what.early:
                    launch.wait_for_begin()
                    wait_s = self.training_s
                    if what.moment > LATE:  # a machine that has become busier might make no step in the time
                        launch.wait_for_step()
                        wait_s *= 1 - LATE
                if launch.ended_within(what.moment * wait_s):
                    break
                must_end, disturbed = what.do(launch, self.draws), True
                self.made[what.number] += 1
                self.say(
                    f"{sum(self.made.values())}: run {self.runs}, {what.number.name} to {what.target} after"
                    f" {time.monotonic() - began:.1f} s, step {launch.step()}"
                )
                if must_end:
                    self._check_end(launch, what, runs / self.recipe / "tiny")
            assert launch.ended_within(2 * END_S), f"still running:\n{launch.log.read_text()}"
        finally:
            launch.kill()
            # As a cluster does at the end of a job: a launcher that is told to stop while it starts its ranks forgets them.
            kill_writers(launch.log)
        status = launch.launcher.returncode
        assert status == 0 or disturbed, f"left alone, it ended with status {status}:\n{launch.log.read_text()}"
        return status == 0

    def _draw(self) -> Interruption:
        number = signal.SIGTERM if sum(self.made.values()) % 2 else signal.SIGKILL
        target = self.draws.choices(list(TARGETS), weights=list(TARGETS.values()))[0]
        return Interruption(number, target, self.draws.random() < EARLY, self.draws.random())

    def _check_end(self, launch: Launch, what: Interruption, run_folder: Path) -> None:
        assert launch.ended_within(END_S), f"still running after {what}:\n{launch.log.read_text()}"
        if what.number == signal.SIGTERM:
            reached, saved = launch.step(), newest_step(run_folder)
            assert saved >= reached, f"{what}: step {reached} was made, step {saved} saved:\n{launch.log.read_text()}"

    def _leave_undisturbed(self) -> tuple[float, float]:
        """Seconds until it trains, and from there to its end."""
        began = time.monotonic()
        launch = self._launch(self.folder / "undisturbed", self.folder / "log")
        try:
            launch.wait_for_begin()
            trains = time.monotonic()
            assert launch.ended_within(2 * END_S) and launch.launcher.returncode == 0, launch.log.read_text()
        finally:
            launch.kill()
        return trains - began, time.monotonic() - trains

    def _launch(self, runs: Path, log: Path) -> Launch:
        words = [*arguments(self.world, runs, recipe=self.recipe), *self.more]
        return Launch([*LAUNCH_TWO, f"recipes/{self.recipe}.py", *words], log, stage=self.stage, anew=self.anew)
