"""One line of progress: where training is, what the losses are, how fast it goes, when it ends."""

from __future__ import annotations

import time
from datetime import timedelta

from tbps.runs.metrics_log import Line


class Progress:
    """Measures speed between lines. Time spent on saving and evaluation is left out by `pause`."""

    def __init__(self, *, step: int, total_steps: int, batch_pairs: int) -> None:
        self.total_steps = total_steps
        self.batch_pairs = batch_pairs
        self._step = step
        self._elapsed_s = 0.0
        self._waited_s = 0.0
        self.data_wait_share = 0.0
        """Part of the time before the last measured speed in which pairs were waited for, as a mean over the processes."""
        self._running_since = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock until `resume`."""
        self._elapsed_s += time.perf_counter() - self._running_since

    def resume(self) -> None:
        """Let the clock go on."""
        self._running_since = time.perf_counter()

    def wait(self, seconds: float) -> None:
        """Pairs were waited for."""
        self._waited_s += seconds

    def pairs_per_second(self, step: int) -> float:
        """Speed of all processes together since the last call."""
        self.pause()
        pairs_per_s = (step - self._step) * self.batch_pairs / max(self._elapsed_s, 1e-9)
        self.data_wait_share = min(1.0, self._waited_s / max(self._elapsed_s, 1e-9))
        self._step, self._elapsed_s, self._waited_s = step, 0.0, 0.0
        self.resume()
        return pairs_per_s

    def sentence(self, line: Line, pairs_per_s: float) -> str:
        """Step, epoch, losses, speed, waiting, memory and time left as one line."""
        losses = " ".join(f"{key.removeprefix('loss/')} {line[key]:.3f}" for key in line if key.startswith("loss/"))
        mfu = f" (MFU {line['mfu']:.1%})" if "mfu" in line else ""
        memory = f"  {line['memory_gib']:.2f} GiB at most" if "memory_gib" in line else ""
        left_s = (self.total_steps - line["step"]) * self.batch_pairs / max(pairs_per_s, 1e-9)
        return (
            f"step {line['step']}/{self.total_steps}  epoch {line['epoch']:.2f}  loss {line['loss']:.4f} ({losses})"
            f"  {pairs_per_s:.1f} pairs/s{mfu}  {self.data_wait_share:.0%} waiting for data{memory}"
            f"  {timedelta(seconds=round(left_s))} left"
        )
