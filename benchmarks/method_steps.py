"""Step time and peak memory of the methods side by side, each next to the first one named.

    python benchmarks/method_steps.py [--methods rasa aga laip] [--pairs 4] [--image-px 384 384] [--rounds 3] [--steps 1]

A measurement is a process of its own, and the methods take turns in every round; medians of the rounds are shown. It builds
a method of real size with random weights (ViT-B/16, 12-layer BERT, queue of 65536), takes one step to warm up, and times the
following ones. A step is forward, backward, AdamW, and the advance of momentum encoder and queue, on one group of pairs with
captions of 20 to 41 tokens and three to six phrases, every tenth a weak positive. On a CPU: one thread, CPU time, largest
resident memory of the process. On a GPU: wall-clock time, largest memory allocated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import torch
from workload import ALLOCATOR, METHODS, build, make_batch, make_captions

from tbps.config.optim import Optimiser
from tbps.data.batch import Batch, Draws
from tbps.training.optimiser import make_optimiser

ON_GPU = torch.cuda.is_available()


def prepare(name: str, *, pairs: int, px: tuple[int, int], quick: bool) -> tuple[Any, Batch, Draws]:
    """The method, its batch and draws, on the device."""
    device = torch.device("cuda" if ON_GPU else "cpu")
    method = build(name, quick=quick, px=px).train().to(device)
    lengths = [20 + 7 * (row % 4) for row in range(pairs)]
    batch, draws = make_batch(name, lengths, quick=quick, px=px)
    # A weak positive has another caption than the own one, which AGA must read too.
    other = make_captions(lengths, seed=3, vocabulary_size=method.online.text_encoder.vocabulary_size)
    weak_B = torch.arange(pairs) % 10 == 0
    paired = replace(
        batch.own,
        token_ids_BL=torch.where(weak_B[:, None], other.token_ids_BL, batch.own.token_ids_BL),
    )
    batch = replace(
        batch,
        image_BCHW=batch.image_BCHW.to(device),
        second_image_BCHW=batch.second_image_BCHW.to(device),
        identity_B=batch.identity_B.to(device),
        replaced_B=weak_B.long().to(device),
        paired=paired,
    )
    return method, batch, draws


def measure(name: str, *, steps: int, pairs: int, px: tuple[int, int], quick: bool) -> dict[str, float]:
    """Median seconds of the steps after a first, and peak memory in MiB, in this process."""
    method, batch, draws = prepare(name, pairs=pairs, px=px, quick=quick)
    optimiser = make_optimiser(method, Optimiser(lr=1e-5))
    clock = time.perf_counter if ON_GPU else time.process_time
    times = []
    for _ in range(1 + steps):
        start = clock()
        losses, numbers = method(batch, draws)
        torch.stack([method.weights[loss] * value for loss, value in losses.items()]).sum().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        method.after_step()
        if ON_GPU:
            torch.cuda.synchronize()
        times.append(clock() - start)
    peak = torch.cuda.max_memory_allocated() / 1024 if ON_GPU else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(times[1:]), "mib": peak / 1024, "phrases": float(numbers.get("phrases", 0))}


def measure_apart(name: str) -> dict[str, float]:
    """`measure` in a process of its own, with the words that this one was started with."""
    command = [sys.executable, *sys.argv, "--measure", name]
    done = subprocess.run(command, env=os.environ | ALLOCATOR, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the measurement of {name} ended with status {done.returncode}; see its message above")
    return json.loads(done.stdout)


def show(names: list[str], rounds: int) -> None:
    """Measure in turns, print medians and ratios to the first method."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            found[name].append(measure_apart(name))
            last = found[name][-1]
            phrases = f", {last['phrases']:g} phrases a caption" if last["phrases"] else ""
            print(f"  round {number + 1}: {name}: {last['seconds']:.3f} s, {last['mib']:.0f} MiB{phrases}", flush=True)
    print(f"\n{'one step':10} {'s' if ON_GPU else 'CPU s':>9} {'ratio':>6} {'peak MiB':>9} {'ratio':>6}")
    seconds = {name: statistics.median(one["seconds"] for one in found[name]) for name in names}
    mib = {name: statistics.median(one["mib"] for one in found[name]) for name in names}
    first = names[0]
    for name in names:
        print(f"{name:10} {seconds[name]:9.4f} {seconds[name] / seconds[first]:6.2f}", end=" ")
        print(f"{mib[name]:9.0f} {mib[name] / mib[first]:6.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["rasa", "aga", "laip"], help="the first is compared with"
    )
    parser.add_argument("--pairs", type=int, default=4, help="pairs of the batch (default 4; the papers: 13)")
    parser.add_argument("--image-px", type=int, nargs=2, default=(384, 384), help="height and width (default 384 384)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each method (default 3)")
    parser.add_argument("--steps", type=int, default=1, help="timed steps of a measurement (default 1)")
    parser.add_argument("--quick", action="store_true", help="narrow encoders, to see that the command works")
    parser.add_argument("--measure", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name, least in (("pairs", 2), ("rounds", 1), ("steps", 1)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name} is {getattr(arguments, name)}, expected {least} or more")
    if not arguments.measure:
        show(arguments.methods, arguments.rounds)
        return
    found = measure(
        arguments.measure,
        steps=arguments.steps,
        pairs=arguments.pairs,
        px=tuple(arguments.image_px),
        quick=arguments.quick,
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
