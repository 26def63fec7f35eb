"""Everything that a GPU is asked about training here, in one command: no data and no weights needed, within eight minutes.

    python benchmarks/gpu.py [--methods mars irra clip] [--pairs 8 32 128] [--seconds 480] [--out gpu.md]
    python benchmarks/gpu.py --beside before.json   # the same at another commit: its speeds beside these
    python benchmarks/gpu.py --quick        # on any machine, a CPU too: to see that the command works

Of every method at the size of its recipe, with random weights, and steps as the loop makes them. First, of all methods: work
of a step and its host syncs, as CUDA's debug mode tells them; pairs a second, TFLOP/s and MFU on needed work (padding is not
computed) in bfloat16 in three batch sizes, with the largest memory beside what `tbps plan` foretells, and the loader cores
that so many pairs need; images and captions embedded, and pairs re-ranked, a second; the share of steps that waits for the
real loader; the plain baseline (benchmarks/plain.py, plain_irra.py). Then losses and gradients beside the CPU's (at the size
of `tiny`), compiled steps, what a step is spent on, and all sizes in TF32 and float32, eager and compiled. One process a
method: what fails is told in the table, and the others go on.
Writes a Markdown table and, beside it, the same as JSON, after every row, and traces. A run that is killed keeps its rows,
and the same command goes on behind them.

Exit status 2 where there is no CUDA device, or its driver is too old for this PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from gpu_order import FIRST, PARTS, Order
from gpu_rows import Rows, key
from gpu_table import Row
from real_methods import NAMES

HERE = Path(__file__).parent
QUICK_PAIRS = (4, 8)
TRACED = ("mars", "irra")
ORDER = ("clip", "mars", "irra", "rasa", "bamg", "aptm", "albef", "laip", "aga", "bilma")
"""Methods by what their numbers are worth: those with a goal come first."""
WORTH = {"clip": 2.0, "mars": 3.0, "irra": 2.0}
"""Shares of the time; all others have 1."""


def device_facts() -> dict[str, Any]:
    """What the numbers are of. ValueError, one sentence: no device, or one that this PyTorch cannot use."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        raise ValueError(no_device(str(one.message) for one in caught))
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(),
        "cuda": torch.version.cuda,
    }


def no_device(told: Iterable[str]) -> str:
    """Why no device can be used, and what to do: one sentence, from what torch told when it was asked for one."""
    advice = "--quick shows on a CPU that the command works"
    about = " ".join(told)
    if old := re.search(r"too old \(found version (\d+)\)", about):
        version = int(old[1])
        return (
            f"the NVIDIA driver is too old: it knows CUDA {version // 1000}.{version % 1000 // 10} at most, and PyTorch"
            f" {torch.__version__} needs CUDA {torch.version.cuda}; have the driver renewed, or install a PyTorch made"
            f" for the driver (tbps doctor compares the two); {advice}"
        )
    reason = about.split(". ")[0].removeprefix("CUDA initialization: ")
    return (
        f"no CUDA device is found{f' ({reason})' if reason else ''} by PyTorch {torch.__version__}; run it on a machine with"
        f" a GPU; {advice}"
    )


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


Take = Callable[[Row], None]


class Child:
    """A process of benchmarks/ that prints rows as JSON, one a line."""

    def __init__(self, program: str, asked: Any, **environment: str) -> None:
        errors, name = tempfile.mkstemp(prefix="gpu-", suffix=".txt")
        self.errors = Path(name)
        paths = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / program), json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": paths} | environment,
        )
        os.close(errors)

    def read(self, take: Take, *, word: str = "", seconds: float) -> str:
        """Send it a line to begin, take its rows as they come, end it after so long; why it failed, empty if it did not."""
        assert self.process.stdin is not None and self.process.stdout is not None
        over = threading.Event()
        timer = threading.Timer(seconds, lambda: (over.set(), self.process.kill()))
        timer.start()
        try:
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended: its status tells
        for line in self.process.stdout:
            if line.startswith("{"):
                take(json.loads(line))
        status = self.process.wait()
        timer.cancel()
        words = self._last_words()
        if over.is_set():
            return "took too long and was ended"
        return f"ended with status {status}: {words}" if status else ""

    def end(self) -> None:
        """Where it is waited for no longer."""
        self.process.kill()
        self.process.wait()
        self._last_words()

    def _last_words(self) -> str:
        """The last line that it wrote to stderr, which is removed."""
        told = self.errors.read_text(errors="replace").strip().splitlines()
        self.errors.unlink()
        return told[-1] if told else ""


@dataclass
class Budget:
    """Seconds for everything."""

    seconds: float
    began: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.began + self.seconds - time.perf_counter()

    def share(self, names: Sequence[str]) -> float:
        """What the first of those has that are still to come."""
        worth = [WORTH.get(name, 1.0) for name in names]
        return max(0.0, self.left) * worth[0] / sum(worth)


def measure(orders: Sequence[Order], rows: Rows, budget: Budget) -> None:
    """One after another; the process of the next one makes its weights meanwhile."""
    waiting: Child | None = None
    for number, order in enumerate(orders):
        child = waiting or Child("gpu_measure.py", asdict(order))
        following = orders[number + 1 : number + 2]
        # What is known by now need not be measured again; but what this one finds, the next one cannot know.
        waiting = Child("gpu_measure.py", asdict(following[0])) if following else None
        share, began = budget.share([one.name for one in orders[number:]]), time.perf_counter()
        if share <= 0:
            child.end()
            rows.add({"method": order.name, "part": "process", "of": order.parts[0], "error": "left out: the time was over"})
            continue
        work = rows.value(order.name, "cost", "gflop_per_pair") or 0.0
        why = child.read(rows.add, word=json.dumps([share, work]), seconds=share + 30)
        if why:
            rows.add({"method": order.name, "part": "process", "of": order.parts[0], "error": why})
        rows.facts["seconds"] = round(budget.seconds - budget.left)
        print(f"{order.name}: {time.perf_counter() - began:.0f} s{', ' + why if why else ''}", flush=True)


def orders_of(arguments: argparse.Namespace, rows: Rows) -> list[Order]:
    """What is measured, in this order: of each method what is worth most, then of each the rest."""
    rest = tuple(part for part in PARTS if part not in FIRST)
    names = [name for name in ORDER if name in arguments.methods]
    found = []
    for parts in (PARTS,) if arguments.quick else (FIRST, rest):
        for name in names:
            wanted = tuple(part for part in parts if part in arguments.parts and part not in rows.finished(name))
            if wanted:
                found.append(
                    Order(
                        name=name,
                        quick=arguments.quick,
                        device="cpu" if arguments.quick else "cuda:0",
                        pairs=tuple(sorted(arguments.pairs)),
                        parts=wanted,
                        precisions=precisions(arguments),
                        known=tuple(rows.known(name)),
                        trace=str(arguments.out.with_name(f"{arguments.out.stem}-{name}.trace.json"))
                        if name in TRACED
                        else "",
                    )
                )
    return found


def precisions(arguments: argparse.Namespace) -> tuple[str, ...]:
    """By worth."""
    return ("bf16",) if arguments.quick else ("bf16", "tf32", "fp32")


def start_beside(arguments: argparse.Namespace, rows: Rows) -> Child:
    """The process that foretells memory and measures the loader meanwhile, of methods of which that is not known."""
    wanted = [one for one in precisions(arguments) if one != "tf32"]  # which needs what float32 needs
    names = [
        name
        for name in ORDER
        if name in arguments.methods
        and not {
            key({"method": name, "part": "foretold", "precision": precision, "pairs": pairs})
            for precision in wanted
            for pairs in arguments.pairs
        }
        <= set(rows.known(name))
    ]
    asked = {"names": names, "pairs": sorted(arguments.pairs), "precisions": wanted, "quick": arguments.quick}
    return Child("gpu_beside.py", asked, CUDA_VISIBLE_DEVICES="")


def main(given: Sequence[str] | None = None) -> int:
    """Measure, write, print; the exit status."""
    arguments = read(given)
    words = " ".join(given if given is not None else sys.argv[1:])
    try:
        facts = {"device": f"{platform.machine()} CPU"} if arguments.quick else device_facts()
        facts |= {"torch": torch.__version__, "python": platform.python_version(), "date": date.today().isoformat()}
        command = f"python benchmarks/gpu.py {words}".strip()
        rows = Rows(arguments.out, facts, command=command, beside=arguments.beside)
    except ValueError as error:
        sys.stderr.write(f"gpu.py: {error}\n")
        return 2
    budget = Budget(arguments.seconds, time.perf_counter())
    beside, told = start_beside(arguments, rows), list[str]()
    reader = threading.Thread(target=lambda: told.append(beside.read(rows.add, seconds=budget.seconds + 30)))
    reader.start()
    measure(orders_of(arguments, rows), rows, budget)
    reader.join()
    if told[0]:
        rows.add({"method": "all", "part": "process", "of": "foretold", "error": told[0]})
    rows.write()
    print(arguments.out.read_text())
    return 1 if any(row["part"] == "process" for row in rows.rows.values()) else 0


def read(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--pairs", nargs="+", type=int, help="batch sizes (default 8 32 128; quick: 4 8)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    parser.add_argument("--seconds", type=float, default=480, help="for everything; no row is begun after (default 480)")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"), help="the table (default gpu.md)")
    parser.add_argument(
        "--beside", type=Path, help="JSON of another run, of another commit say: its speeds stand beside these"
    )
    parser.add_argument("--quick", action="store_true", help="tiny models on the CPU, to see that the command works")
    arguments = parser.parse_args(given)
    arguments.pairs = arguments.pairs or (QUICK_PAIRS if arguments.quick else (8, 32, 128))
    if min(arguments.pairs) < 2:
        parser.error(f"--pairs is {min(arguments.pairs)}, expected 2 or more: one pair has no other one to differ from")
    if arguments.seconds <= 0:
        parser.error(f"--seconds is {arguments.seconds:g}, expected more than 0")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
