"""Everything that a GPU is asked about training here, in one command: no data and no weights needed, about eight minutes.

    python benchmarks/gpu.py [--methods mars irra clip] [--pairs 8 32 128] [--seconds 45] [--out benchmarks/gpu.md]
    python benchmarks/gpu.py --quick        # on any machine, a CPU too: to see that the command works

Of every method at the size of its recipe, with random weights, and steps as the loop makes them: losses and gradients
beside the CPU's (at the size of `tiny`); work of a step and its host syncs, as CUDA's debug mode tells them; pairs a second,
TFLOP/s and MFU on needed work (padding is not computed) in bfloat16, TF32 and float32, eager and compiled, in three batch
sizes, beside the plain baseline (benchmarks/plain.py, plain_irra.py); largest memory; images and captions embedded, and
pairs re-ranked, a second; what a step is spent on. One process a method: what fails is told in the table, and the others go
on.
Writes a Markdown table and, beside it, the same as JSON, and traces.

Exit status 2 where there is no CUDA device, or its driver is too old for this PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from gpu_measure import PARTS, Order
from gpu_table import markdown
from real_methods import NAMES

HERE = Path(__file__).parent
QUICK_PAIRS = (4, 8)
TRACED = ("mars", "irra")


def device_facts() -> dict[str, Any]:
    """What the numbers are of. ValueError, one sentence: no device, or one that this PyTorch cannot use."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        told = next((str(one.message) for one in caught if "driver" in str(one.message)), "")
        reason = f"the driver cannot be used: {told.split('.')[0]}" if told else "no CUDA device is found"
        raise ValueError(
            f"{reason} (PyTorch {torch.__version__}); run it on a machine with a GPU (tbps doctor compares PyTorch's CUDA"
            " with the driver's), or with --quick to see the command work on a CPU"
        )
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(),
        "cuda": torch.version.cuda,
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


class Child:
    """A process that measures one method; it begins with all that needs no device."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "gpu_measure.py"), json.dumps(asdict(order))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])},
        )

    def measure(self) -> list[dict[str, Any]]:
        """Let it begin, and wait; what it has told, and that it failed or took too long."""
        printed, errors, status = "", "", "took too long and was ended"
        try:
            printed, errors = self.process.communicate("go\n", timeout=2 * self.order.seconds + 60)
            status = f"ended with status {self.process.returncode}" if self.process.returncode else ""
        except subprocess.TimeoutExpired:
            self.process.kill()
            printed, errors = self.process.communicate()
        rows = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        if status:
            rows.append({"method": self.order.name, "part": "process", "error": status, "traceback": errors[-2000:]})
        return rows


def measure(orders: Sequence[Order], *, take: Any) -> None:
    """One method after another, each given to `take`; the next one's process makes its weights meanwhile."""
    waiting = Child(orders[0])
    for number, order in enumerate(orders):
        child, began = waiting, time.perf_counter()
        if number + 1 < len(orders):
            waiting = Child(orders[number + 1])
        found = child.measure()
        take(f"{order.name}: {time.perf_counter() - began:.0f} s", found)


def main(given: Sequence[str] | None = None) -> int:
    """Measure, write, print; the exit status."""
    arguments = read(given)
    try:
        facts = {"device": f"{platform.machine()} CPU"} if arguments.quick else device_facts()
    except ValueError as error:
        sys.stderr.write(f"gpu.py: {error}\n")
        return 2
    out: Path = arguments.out
    facts |= {"torch": torch.__version__, "python": platform.python_version(), "date": date.today().isoformat()}
    orders = [
        Order(
            name=name,
            quick=arguments.quick,
            device="cpu" if arguments.quick else "cuda:0",
            pairs=tuple(sorted(arguments.pairs)),
            parts=tuple(part for part in PARTS if part in arguments.parts),
            precisions=("bf16",) if arguments.quick else ("bf16", "tf32", "fp32"),
            seconds=arguments.seconds,
            trace=str(out.with_name(f"{out.stem}-{name}.trace.json")) if name in TRACED else "",
        )
        for name in arguments.methods
    ]
    began = time.perf_counter()

    words = " ".join(given if given is not None else sys.argv[1:])
    rows: list[dict[str, Any]] = []

    def take(line: str, found: list[dict[str, Any]]) -> None:
        faults = [f"  {row['part']}: {row['error']}" for row in found if "error" in row]
        print("\n".join([line, *faults]), flush=True)
        rows.extend(found)
        facts["seconds"] = round(time.perf_counter() - began)
        out.with_suffix(".json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1))
        out.write_text(markdown(facts, rows, command=f"python benchmarks/gpu.py {words}".strip()))

    measure(orders, take=take)
    print(out.read_text())
    return 1 if any(row["part"] == "process" for row in rows) else 0


def read(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--pairs", nargs="+", type=int, help="batch sizes (default 8 32 128; quick: 4 8)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    parser.add_argument("--seconds", type=float, default=45, help="of a method, after which no part is begun (default 45)")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"), help="the table (default gpu.md)")
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
