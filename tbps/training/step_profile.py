"""What a few steps spend their time on: a trace of the first process, and the costliest operations in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tbps.runs.atomic_file import words_of

logger = logging.getLogger(__name__)

WARM_UP_STEPS = 2
"""The first steps after a start are not like the others: memory is asked for, workers begin, kernels are chosen."""
_SHOWN = 5


class StepProfile:
    """Profiles whole steps of a start, once. The loop says where steps begin and end; training is not changed by it."""

    def __init__(self, folder: Path, *, device: torch.device, steps: range) -> None:
        """folder: where the trace goes; steps: those to be profiled, the first step of a run is 1; may be empty."""
        self._folder, self._device, self._steps = folder, device, steps
        self._profiler: torch.profiler.profile | None = None

    def begin(self, step: int) -> None:
        """Before the pairs of `step` are asked for."""
        if self._steps and step == self._steps.start:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if self._device.type == "cuda":
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()

    def end(self, step: int) -> None:
        """When `step` is done; behind the last one the trace is written."""
        if self._profiler is not None and step == self._steps[-1]:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # what was launched belongs to the steps
            profiler, self._profiler = self._profiler, None
            profiler.stop()
            self._write(profiler)

    def close(self) -> None:
        """Where training ends within the steps: nothing is written."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _write(self, profiler: torch.profiler.profile) -> None:
        first, last = self._steps[0], self._steps[-1]
        file = self._folder / f"steps-{first:08d}-{last:08d}.json.gz"
        try:
            self._folder.mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(file))
        except (OSError, RuntimeError) as error:  # a trace never ends a training
            why = words_of(error) if isinstance(error, OSError) else error
            logger.warning("the profile of steps %d to %d could not be written to %s (%s)", first, last, file, why)
            return
        words = "; ".join(costliest(profiler, on_gpu=self._device.type == "cuda"))
        logger.info("profile of steps %d to %d: %s (for ui.perfetto.dev); costliest: %s", first, last, file, words)


def costliest(profiler: torch.profiler.profile, *, on_gpu: bool) -> list[str]:
    """The five operations in which most time was spent, without what they call: name, share of all, calls."""

    def own_us(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    events = sorted(profiler.key_averages(), key=own_us, reverse=True)
    total_us = max(sum(map(own_us, events)), 1e-9)
    return [f"{event.key} {own_us(event) / total_us:.0%} ({event.count} calls)" for event in events[:_SHOWN]]


def steps_to_profile(asked: int, *, first: int, total: int, ends_at: Callable[[int], bool]) -> range:
    """The steps of a start, behind its warm-up, that `loop.profile` means; says so where they are fewer than asked for.

    first: steps that were done before the start; total: of the run; ends_at(step): whether something is saved or evaluated
    behind a step, which would be most of a trace.
    """
    begin = end = first + 1 + WARM_UP_STEPS
    while end - begin < asked and end <= total:
        end += 1
        if ends_at(end - 1):
            break
    if (found := end - begin) < asked:
        ends = (
            f"something is saved or evaluated behind step {end - 1}"
            if found and end <= total
            else f"it ends with step {total}"
        )
        logger.warning(
            "loop.profile asks for %d steps behind the first %d of a start, of which this one has %d: %s",
            asked,
            WARM_UP_STEPS,
            found,
            ends,
        )
    return range(begin, end)
