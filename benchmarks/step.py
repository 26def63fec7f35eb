"""Time, memory and host syncs of a MARS training step: ours against the plain baseline, on the same weights and batch.

    python benchmarks/step.py [--rounds 3] [--quick]

One thread, CPU time of the process; all variants take turns in every round, the first round is dropped, the median of the
rest is shown. Timed with BERT's dropout at 0.1; losses are compared with dropout 0 and the generator's words given. Two
pairs of different identities, captions of 41 and 20 tokens, images of 384 x 384, one step = forward and backward. MLM's
soft term is normalised over words and the decoder sees no padding, in both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from counting import Count, Memory, count, measure_memory
from plain import PlainStep, plain_momentum
from torch import Tensor
from workload import build, fix_environment, make_batch

from tbps.data.batch import Batch, Draws
from tbps.training.precision import choose_gemm

LENGTHS = (41, 20)
PROBE = "probe"


@dataclass(kw_only=True, frozen=True)
class Variant:
    """One row of the table."""

    title: str
    ours: bool
    gemm: str
    """"highest" (torch's default library), "medium" (oneDNN) or PROBE: what tbps chooses when a run starts."""
    bf16: bool = False


VARIANTS = (
    Variant(title="baseline, fp32", ours=False, gemm="highest"),
    Variant(title="ours, fp32, same GEMM library", ours=True, gemm="highest"),
    Variant(title="baseline, fp32 by oneDNN", ours=False, gemm="medium"),
    Variant(title="ours, fp32 by oneDNN", ours=True, gemm="medium"),
    Variant(title="ours, fp32, library chosen at start-up", ours=True, gemm=PROBE),
    Variant(title="ours, bf16 autocast", ours=True, gemm="highest", bf16=True),
)


class Bench:
    """A method, the plain step on its weights, and a batch."""

    def __init__(self, *, quick: bool) -> None:
        self.method = build("mars", quick=quick).train()
        self.plain = PlainStep(self.method)
        self.batch, self.draws = make_batch("mars", LENGTHS, quick=quick)
        self.same_batch, self.same_draws = make_batch("mars", LENGTHS, quick=quick, replay_words=True)
        self.chosen = choose_gemm(None)

    def forward(self, variant: Variant, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Losses of one variant."""
        torch.set_float32_matmul_precision(self.chosen if variant.gemm == PROBE else variant.gemm)
        mixed: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16) if variant.bf16 else nullcontext()
        with mixed:
            losses: dict[str, Tensor] = self.method(batch, draws)[0] if variant.ours else self.plain(batch, draws)
            return losses

    def total(self, variant: Variant) -> Tensor:
        """The weighted sum of the losses."""
        losses = self.forward(variant, self.batch, self.draws)
        return torch.stack([self.method.weights[name] * loss for name, loss in losses.items()]).sum()

    def step(self, variant: Variant) -> float:
        """Forward and backward from no gradients; CPU seconds."""
        self.clear()
        start = time.process_time()
        self.total(variant).backward()
        return time.process_time() - start

    def clear(self) -> None:
        """Drop gradients and the features that wait for the queue."""
        self.method.zero_grad(set_to_none=True)
        self.method.past.pending.clear()
        for leaf in self.plain.weights.leaves():
            leaf.grad = None

    def same_losses(self, variant: Variant) -> dict[str, float]:
        """Losses without dropout and with the generator's words given: what must be equal."""
        with self._without_dropout():
            losses = self.forward(variant, self.same_batch, self.same_draws)
        self.clear()
        return {name: loss.item() for name, loss in losses.items()}

    def _without_dropout(self) -> AbstractContextManager[None]:
        return _Dropout(self, 0.0)

    def memory(self, variant: Variant, *, checkpointing: bool = False) -> Memory:
        """Of one step."""
        self.clear()
        self.method.set_activation_checkpointing(checkpointing)
        measured = measure_memory(
            lambda: self.total(variant), [*self.method.parameters(), *self.method.buffers(), self.batch.image_BCHW]
        )
        self.method.set_activation_checkpointing(False)
        return measured

    def count(self, variant: Variant) -> Count:
        """Of one step; ours waits once more, for the copy of the hard negatives."""
        self.clear()
        counted = count(lambda: self.total(variant).backward())
        counted.syncs += variant.ours
        return counted

    def update(self, *, ours: bool, rounds: int) -> float:
        """CPU seconds of optimiser and momentum encoder together, given a step's gradients; median without the first."""
        self.step(VARIANTS[ours])
        parameters = list(self.method.parameters()) if ours else self.plain.weights.leaves()
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        optimiser = torch.optim.AdamW(trained, lr=1e-6, fused=ours, foreach=None if ours else False)
        times = []
        for _ in range(rounds + 1):
            start = time.process_time()
            optimiser.step()
            if ours:
                self.method.past.advance()
            else:
                plain_momentum(self.method.momentum_encoder, self.method.online, self.method.past.momentum)
            times.append(time.process_time() - start)
        return statistics.median(times[1:])


class _Dropout(AbstractContextManager[None]):
    """Sets every dropout probability for a while."""

    def __init__(self, bench: Bench, probability: float) -> None:
        self.bench, self.probability = bench, probability

    def __enter__(self) -> None:
        modules = [module for module in self.bench.method.modules() if hasattr(module, "dropout")]
        self.before = [(module, module.dropout) for module in modules]
        self.encoders = [
            (encoder, encoder.dropout) for encoder in (self.bench.plain.online, self.bench.plain.momentum_encoder)
        ]
        for owner, _ in [*self.before, *self.encoders]:
            owner.dropout = self.probability

    def __exit__(self, *_: object) -> None:
        for owner, probability in [*self.before, *self.encoders]:
            owner.dropout = probability


def show_costs(bench: Bench) -> None:
    """Syncs, work and memory. It comes first: pages that this process has freed would hide what a step needs."""
    memory = {
        "plain": bench.memory(VARIANTS[0]),
        "ours": bench.memory(VARIANTS[1]),
        "checkpointed": bench.memory(VARIANTS[1], checkpointing=True),
    }
    print(f"\n{'one step':40} {'baseline':>10} {'ours':>10}")
    plain, ours = bench.count(VARIANTS[0]), bench.count(VARIANTS[1])
    for name in ("syncs", "operations", "gflop"):
        title = {"syncs": "host syncs", "operations": "operations (no views)", "gflop": "GFLOP, forward + backward"}[name]
        print(f"{title:40} {getattr(plain, name):10.0f} {getattr(ours, name):10.0f}")
    for name in ("peak", "saved"):
        title = {"peak": "memory of the step, MiB", "saved": "of it tensors kept for backward, MiB"}[name]
        print(f"{title:40} {getattr(memory['plain'], name):10.0f} {getattr(memory['ours'], name):10.0f}")
    print(f"{'the same with activation checkpointing':40} {'':10} {memory['checkpointed'].peak:10.0f}")


def time_variants(bench: Bench, variants: tuple[Variant, ...], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each variant, taking turns."""
    times: dict[str, list[float]] = {variant.title: [] for variant in variants}
    for number in range(rounds):
        for variant in variants:
            times[variant.title].append(bench.step(variant))
            print(f"  round {number + 1}: {variant.title}: {times[variant.title][-1]:.2f} s", flush=True)
    return {title: statistics.median(values[1:]) for title, values in times.items()}


def show_times(bench: Bench, variants: tuple[Variant, ...], rounds: int) -> None:
    """Seconds, ratios and differences of the losses."""
    reference = bench.same_losses(VARIANTS[0])
    difference = {}
    for variant in variants:
        losses = bench.same_losses(variant)
        difference[variant.title] = max(abs(losses[name] - value) for name, value in reference.items())
    seconds = time_variants(bench, variants, rounds)
    baseline = seconds[VARIANTS[0].title]
    print(f"\nlibrary chosen at start-up: {bench.chosen} (highest = torch's default, medium = oneDNN)")
    print(f"{'forward + backward':40} {'CPU s/step':>10} {'ratio':>6} {'max loss difference':>20}")
    for title, value in seconds.items():
        print(f"{title:40} {value:10.2f} {baseline / value:6.2f} {difference[title]:20.1e}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times every variant runs; the first is dropped (default 3)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that the command works")
    parser.add_argument("--variants", default="123456", help="rows of the first table to measure (default 123456)")
    parser.add_argument("--only", choices=("time", "costs", "update"), help="one of the three tables")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds is {arguments.rounds}, expected 2 or more: the first round is dropped")
    fix_environment()
    torch.set_num_threads(1)
    bench = Bench(quick=arguments.quick)
    if arguments.only in (None, "costs"):
        show_costs(bench)
    if arguments.only in (None, "time"):
        rows = sorted({1, *(int(digit) for digit in arguments.variants)})
        show_times(bench, tuple(VARIANTS[row - 1] for row in rows), arguments.rounds)
    if arguments.only in (None, "update"):
        plain, ours = (bench.update(ours=kind, rounds=arguments.rounds) for kind in (False, True))
        print(f"\n{'optimiser + momentum encoder':40} {plain:10.2f} {ours:10.2f}   CPU s, ratio {plain / ours:.2f}")


if __name__ == "__main__":
    main()
