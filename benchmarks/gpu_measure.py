"""What `benchmarks/gpu.py` measures of one method, in a process of its own. Prints one JSON object a line.

The process loads libraries and makes the weights first, and waits for a line before it touches the device: the one before it
is measured meanwhile. The line says how many seconds it has, and the work of a step where that is known.
"""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from cards import tflop_peak
from gpu_evaluation import evaluation_speeds
from gpu_loop import wait_share
from gpu_order import Order
from gpu_rows import key
from plain import PlainStep, plain_momentum
from real_methods import build, run_of
from real_step import BATCHES, RealStep, Timing, now, time_steps, total_of
from same_on_gpu import difference

from tbps.training.compilation import Compiled, compile_method, num_graphs, put_back, why_not

WITH_PLAIN = ("mars", "rasa", "irra")
"""Methods that the plain baseline knows."""
WITH_EVALUATION = ("mars", "rasa", "aptm", "clip", "bamg")
WITH_LOOP = ("clip",)
"""The fastest: no other method's steps want more of the loader."""
GRAPHS: Literal["graphs"] = "graphs"
How = bool | Literal["graphs"]
"""Eager, compiled, or compiled and recorded as CUDA graphs (`loop.cuda_graphs`)."""
FEWEST = 2
"""Pairs of the smallest batch that is tried where memory is too little."""


class Bench:
    """The measurements of one method."""

    def __init__(self, order: Order) -> None:
        self.order, self.device = order, torch.device(order.device)
        self.precision = "bf16"
        self.method = build(self.run_of(self.middle))
        self.parts: Compiled | None = None
        self.until, self.gflop_per_pair = math.inf, 0.0
        self.known = {tuple(one) for one in order.known}

    @property
    def middle(self) -> int:
        """Pairs of the middle batch size."""
        return self.order.pairs[len(self.order.pairs) // 2]

    def run_of(self, pairs: int, precision: str = "bf16") -> Any:
        """The run in another size or precision; adapters and frozen weights stay as they were made, in bfloat16."""
        return run_of(self.order.name, quick=self.order.quick, pairs=pairs, precision=precision)

    def steps_of(self, pairs: int, precision: str = "bf16") -> RealStep:
        """Steps of this method."""
        return RealStep(self.run_of(pairs, precision), self.method, self.device)

    # -- parts ------------------------------------------------------------------------------------------------------------

    def same(self) -> None:
        """Losses and gradients beside the CPU's, at the size of `tiny`."""
        for precision in ("fp32", "bf16"):
            self.say(
                "same", precision=precision, **asdict(difference(self.order.name, precision=precision, device=self.device))
            )

    def cost(self) -> None:
        """Work of a step and its host syncs, at the middle size."""
        steps = self.steps_of(self.middle)
        self.gflop_per_pair = steps.gflop() / self.middle
        for _ in range(2):
            steps.step()
        syncs = steps.syncs() if self.device.type == "cuda" else None  # a CPU waits for nothing
        parameters = sum(parameter.numel() for parameter in self.method.parameters() if parameter.requires_grad)
        about = {"syncs": syncs, "trained_parameters": parameters, "launch_us": launch_us(self.device)}
        self.say("cost", gflop_per_pair=self.gflop_per_pair, **about)

    def eager(self) -> None:
        """All sizes in bfloat16."""
        for pairs in reversed(self.order.pairs):
            self.speed(pairs, "bf16")

    def rest(self) -> None:
        """All sizes in the other precisions, and compiled ones where blocks can be compiled."""
        for precision in self.order.precisions[1:]:
            if self.order.name == "bamg":  # whose frozen weights are bfloat16
                return
            for pairs in reversed(self.order.pairs):
                self.speed(pairs, precision)
        if not self._cannot_compile():
            for precision in self.order.precisions[1:]:
                for pairs in reversed(self.order.pairs):
                    self._compiled(pairs, precision)

    def plain(self) -> None:
        """The plain baseline at the middle size, and in bfloat16 at the smallest."""
        sizes = (("bf16", self.middle), ("bf16", self.order.pairs[0]), ("tf32", self.middle))
        for precision, pairs in dict.fromkeys(sizes):
            about = {"who": "plain", "precision": precision, "pairs": pairs, "compiled": False}
            self.guarded("speed", lambda pairs=pairs, precision=precision: self._plain(pairs, precision), **about)

    def compiled(self) -> None:
        """All sizes in bfloat16, compiled as `loop.compile` does it; graphs are counted."""
        if why := self._cannot_compile():
            self.say("compiled", error=f"not compiled, eager alone was measured: {why}")
            return
        for pairs in dict.fromkeys((self.order.pairs[-1], *self.order.pairs)):
            self._compiled(pairs, "bf16")
        self._compiled(self.order.pairs[0], "bf16", how=GRAPHS)  # where the host's launches limit a step

    def _cannot_compile(self) -> str:
        return "a CPU's compiler takes minutes" if self.device.type == "cpu" else why_not(self.device)

    def _compiled(self, pairs: int, precision: str, *, how: How = True) -> None:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        self.parts = compile_method(self.method, self.device, cuda_graphs=how == GRAPHS)
        began = time.perf_counter()
        self.speed(pairs, precision, compiled=how)
        seconds = time.perf_counter() - began
        self.say("compiled", pairs=pairs, precision=precision, compiled=how, graphs=num_graphs(), seconds=seconds)
        put_back(self.method)
        self.parts = None

    def loop(self) -> None:
        """How long steps of the largest size wait for the real loader."""
        if self.order.name in WITH_LOOP:
            pairs, quick = self.order.pairs[-1], self.order.quick
            self.say("loop", **wait_share(self.order.name, self.method, self.device, pairs=pairs, quick=quick))

    def evaluation(self) -> None:
        """Images and captions embedded, pairs re-ranked, a second."""
        if self.order.name in WITH_EVALUATION:
            found = evaluation_speeds(self.method, self.run_of(self.middle), self.device, quick=self.order.quick)
            self.say("evaluation", **found)

    def trace(self) -> None:
        """What a step of the smallest and of the largest size is spent on: the host's time and the device's, by operation;
        of the smallest a Chrome trace, where one is asked for."""
        for pairs in dict.fromkeys((self.order.pairs[0], self.order.pairs[-1])):
            steps = self.steps_of(pairs)
            for _ in range(1 if self.order.quick else BATCHES):
                steps.step()
            with torch.profiler.profile() as profile:
                steps.step()
                now(self.device)
            if self.order.trace and pairs == self.order.pairs[0]:
                profile.export_chrome_trace(self.order.trace)
            averages = profile.key_averages()
            columns = ["self_cpu_time_total"] + ["self_cuda_time_total"] * (self.device.type == "cuda")
            tables = [averages.table(sort_by=column, row_limit=20, max_name_column_width=60) for column in columns]
            self.say("trace", pairs=pairs, file=Path(self.order.trace).name, tables=tables)

    # -- how --------------------------------------------------------------------------------------------------------------

    def speed(self, pairs: int, precision: str, *, compiled: How = False) -> None:
        """One row of the table; a batch that does not fit is halved until it does, and that is said."""

        def measure() -> None:
            allow_tf32(precision == "tf32")
            steps = self.steps_of(pairs, "bf16" if precision == "bf16" else "fp32")

            def step() -> None:
                if self.parts is not None:
                    self.parts.begin_step()
                steps.step()

            timing = time_steps(step, self.device, **self._pace(graphs=compiled == GRAPHS))
            self._row(timing, pairs=pairs, precision=precision, compiled=compiled, who="ours")

        about = {"who": "ours", "precision": precision, "pairs": pairs, "compiled": compiled}
        if not self.guarded("speed", measure, **about) and self.too_large and pairs // 2 >= FEWEST:
            self.speed(pairs // 2, precision, compiled=compiled)

    def _plain(self, pairs: int, precision: str) -> None:
        allow_tf32(precision == "tf32")
        steps = self.steps_of(pairs, precision)
        batch, draws = steps.batch()
        if self.order.name == "irra":
            from irra_step import plain_step
            from plain_irra import PlainIrra

            from tbps.convert.irra_names import to_irra

            run = steps.run
            model = PlainIrra(run.method, image_px=run.data.image_px, num_identities=run.data.num_identities).to(self.device)
            model.load_state_dict(to_irra(self.method.state_dict()), strict=True)
            forward = plain_step(model, run.method, batch, draws)
            leaves = list(model.parameters())
        else:
            plain = PlainStep(self.method)
            forward, leaves = lambda: plain(batch, draws), plain.weights.leaves()
        optimiser = torch.optim.AdamW(leaves, lr=1e-6)

        def step() -> None:
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
                losses = forward()
            total = total_of(self.method, losses)
            total.backward()
            optimiser.step()
            if self.order.name != "irra":
                plain_momentum(self.method.momentum_encoder, self.method.online, 0.995)
            total.item()  # the published loops read losses in every step

        self._row(
            time_steps(step, self.device, **self._pace()), pairs=pairs, precision=precision, compiled=False, who="plain"
        )

    def _pace(self, *, graphs: bool = False) -> dict[str, Any]:
        if self.order.quick:
            return {"warm": 1, "seconds": 0.0, "most": 1}
        return {"warm": 3 * BATCHES} if graphs else {}  # a graph runs once, is recorded, and plays from then on

    def _row(self, timing: Timing, *, pairs: int, precision: str, compiled: How, who: str) -> None:
        rate = pairs / timing.step_s
        tflop = rate * self.gflop_per_pair / 1000
        peak = tflop_peak(self.device, precision) if tflop else 0.0
        self.say(
            "speed",
            who=who,
            precision=precision,
            compiled=compiled,
            pairs=pairs,
            step_ms=1000 * timing.step_s,
            pairs_per_s=rate,
            tflop_per_s=tflop or None,
            mfu=tflop / peak if peak else None,
            peak_mib=timing.peak_mib,
        )

    def guarded(self, part: str, measure: Callable[[], None], **about: Any) -> bool:
        """Whether it is measured; a failure is a row of its own. What an earlier run has measured is left as it is."""
        self.too_large = False
        if key({"method": self.order.name, "part": part, **about}) in self.known:
            return True
        if time.perf_counter() > self.until:
            raise TimeOver
        try:
            measure()
        except TimeOver:
            raise
        except Exception as error:
            self.too_large = too_large(error)
            half = int(about.get("pairs", 0)) // 2
            told = f", so {half} pairs were measured" if half >= FEWEST and about["who"] == "ours" else ""
            words = f"too little memory{told}" if self.too_large else f"{type(error).__name__}: {error}"
            self.say(part, error=words, traceback=traceback.format_exc()[-2000:], **about)
        else:
            return True
        finally:
            allow_tf32(False)
        self.method.zero_grad(set_to_none=True)
        with suppress(AttributeError):
            self.method.past.pending.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def say(self, part: str, **about: Any) -> None:
        """One line."""
        sys.stdout.write(json.dumps({"method": self.order.name, "part": part, **about}) + "\n")
        sys.stdout.flush()


class TimeOver(Exception):
    """Nothing more is to be begun."""


def too_large(error: Exception) -> bool:
    """Whether a device, or a CPU, had too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def launch_us(device: torch.device) -> float:
    """Microseconds of the host for the smallest operation: what a step of many of them cannot be faster than."""
    x = torch.zeros(8, device=device)
    for operations in (100, 3000):
        began = now(device)
        for _ in range(operations):
            x.add_(1)
    return 1e6 * (now(device) - began) / 3000


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products on CUDA may be rounded to TF32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def main() -> None:
    """Measure all parts in turn."""
    order = Order(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(sys.argv[1]).items()}
    )
    bench = Bench(order)
    if not (line := sys.stdin.readline()):
        return  # nobody waits for it any more
    seconds, bench.gflop_per_pair = json.loads(line)
    bench.until = time.perf_counter() + seconds
    allow_tf32(False)
    bench.method.to(bench.device)
    for number, part in enumerate(order.parts):
        if part == "plain" and order.name not in WITH_PLAIN:
            continue
        started = now(bench.device)
        try:
            bench.guarded(part, getattr(bench, part))
        except TimeOver:
            bench.say(
                "process", of=part, error=f"left out: the time was over before {', '.join(order.parts[number:])} ended"
            )
            return
        bench.say("time", of=part, seconds=now(bench.device) - started)


if __name__ == "__main__":
    main()
