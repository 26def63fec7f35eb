"""Where a run's numbers go: `metrics.jsonl`, trackers, the progress line; and the check that they are finite."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tbps.config.run import Run
from tbps.config.serialise import to_json
from tbps.data.mixture import without_signatures
from tbps.runs.atomic_file import words_of, write_json
from tbps.runs.metrics_log import TIMES, Line, MetricsLog
from tbps.runs.run_folder import RunFolder
from tbps.training.distributed import gather_objects, on_main
from tbps.training.parts import Mfu
from tbps.training.progress import Progress
from tbps.training.trackers import TensorBoard, WandB

logger = logging.getLogger(__name__)

_KEYS_SHOWN = 4


class Journal:
    """Collects lines on every process and writes them on the first."""

    def __init__(
        self,
        run: Run,
        folder: RunFolder,
        accelerator: Accelerator,
        *,
        step: int,
        total_steps: int,
        mfu: Mfu | None = None,
    ) -> None:
        self.run, self.folder = run, folder
        self._mfu, self._num_processes = mfu, accelerator.num_processes
        self.progress = Progress(step=step, total_steps=total_steps, batch_pairs=run.data.batch_pairs)
        self.last_pairs_per_s = 0.0
        """Speed at the last line that was shown; 0 before the first."""
        self._lines: list[Line] = []
        self._places: list[_Place] = []
        """None but on the first process."""
        if accelerator.is_main_process:
            self._places.append(_Place(MetricsLog(folder.metrics, step=step), str(folder.metrics)))
            if run.loop.tensorboard:
                self._places.append(_Place(TensorBoard(folder.path, step=step), f"TensorBoard's file in {folder.path}"))
            if run.loop.wandb:
                public = replace(run, data=without_signatures(run.data))
                tracker = WandB(folder.path, config=to_json(public), project=run.recipe, name=run.name)
                self._places.append(_Place(tracker, f"Weights & Biases in {folder.path}"))

    def shows(self, step: int) -> bool:
        """Whether the line of this step is a line of progress: every `log_steps` steps, and the last one."""
        return step % self.run.loop.log_steps == 0 or step == self.progress.total_steps

    def add(self, line: Line, *, memory_gib: float = 0.0) -> None:
        """Take the line of a step; where it is one of progress, add what the run costs, write and show.

        memory_gib: the most memory that any process has used; asked for in lines of progress alone.
        """
        self._lines.append(line)
        self.progress.wait(line["data_wait_s"])
        if self.shows(line["step"]):
            pairs_per_s = self.progress.pairs_per_second(line["step"])
            line["pairs_per_s"] = round(pairs_per_s, 2)
            line["data_wait_share"] = round(self.progress.data_wait_share, 4)
            line["memory_gib"] = round(memory_gib, 3)
            if self._mfu is not None and (mfu := self._mfu(pairs_per_s / self._num_processes)) is not None:
                line["mfu"] = round(mfu, 4)
            self.last_pairs_per_s = pairs_per_s
            self.flush()
            if self._places:
                logger.info("%s", self.progress.sentence(line, pairs_per_s))

    def add_evaluation(self, split: str, step: int, values: dict[str, float]) -> None:
        """Write and show the result of an evaluation."""
        self._lines.append({"step": step, "split": split, **values})
        self.flush()
        if self._places:
            shown = "  ".join(f"{name} {value:.2f}" for name, value in values.items() if name != "weights_of_step")
            logger.info("%s with the weights of step %d: %s", split, values["weights_of_step"], shown)

    def flush(self) -> None:
        """Write all lines."""
        for place in self._places:
            place.write(self._lines)
        self._lines = []

    def sync(self) -> None:
        """Write all lines and wait until they are on the disk."""
        self.flush()
        for place in self._places:
            place.sync()

    def close(self) -> None:
        """Write the rest and close everything."""
        self.flush()
        for place in reversed(self._places):
            place.close()


class _Place:
    """Where lines are written. While it takes none (a full disk), they wait in memory: numbers never end a training."""

    def __init__(self, place: MetricsLog | TensorBoard | WandB, name: str) -> None:
        self._place, self._name = place, name
        self._waiting: list[Line] = []
        self._failed = False

    def write(self, lines: list[Line]) -> None:
        """Write what waits and `lines`, in order."""
        self._waiting += lines
        try:
            self._place.write(self._waiting)
        except OSError as error:
            self._warn("its lines wait in memory and are written when it takes them again: make room", error)
            return
        if self._failed:
            logger.info("%s: %d lines that had waited are written", self._name, len(self._waiting))
        self._waiting, self._failed = [], False

    def sync(self) -> None:
        """Wait until what was written is on the disk, where that is a matter of this place."""
        if isinstance(self._place, MetricsLog):
            try:
                self._place.sync()
            except OSError as error:
                self._warn("a power cut might take its last lines", error)

    def close(self) -> None:
        """Close the place, whatever it says."""
        if self._waiting:
            logger.warning("%s: %d lines could not be written and are lost", self._name, len(self._waiting))
        try:
            self._place.close()
        except OSError as error:
            self._warn("its last lines may be missing", error)

    def _warn(self, what: str, error: OSError) -> None:
        """Once, until it works again."""
        if not self._failed:
            logger.warning("%s cannot be written (%s): %s", self._name, words_of(error), what)
        self._failed = True


def with_numbers(line: Line, numbers: dict[str, float]) -> Line:
    """The line of a step with what the method tells beside its losses; ValueError: under a name that the log itself uses."""
    taken = {*line, "split", *TIMES}
    if clash := sorted(taken & numbers.keys()):
        raise ValueError(
            f"the method returned a number {clash[0]!r}, which is a name of the log's own ({', '.join(sorted(taken))});"
            " expected another one: rename it"
        )
    return {**line, **numbers}


def check_finite(numbers: dict[str, float], *, step: int, keys: tuple[str, ...], folder: RunFolder) -> None:
    """ValueError if a number is not finite: names it, the step and the pairs, which `failed_step.json` lists in full."""
    wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
    if not wrong:
        return
    all_keys = [key for part in gather_objects(keys) for key in part]
    file = folder.path / "failed_step.json"
    shown = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
    where = on_main(lambda: _write_failed_step(file, {"step": step, "numbers": shown, "pairs": all_keys}))
    pairs = ", ".join(all_keys[:_KEYS_SHOWN])
    if len(all_keys) > _KEYS_SHOWN:
        pairs += f" and {len(all_keys) - _KEYS_SHOWN} more"
    raise ValueError(
        f"{wrong[0].replace('/', ' ')} is {numbers[wrong[0]]} in step {step} (pairs {pairs}, {where});"
        " this update was not applied and the last checkpoint is as it was: look at these pairs, or lower optim.lr in a"
        " new run"
    )


def _write_failed_step(file: Path, content: dict[str, Any]) -> str:
    """Where to find all pairs; the number that is not finite must be told though there may be no room for the file."""
    try:
        write_json(file, content)
    except OSError as error:
        return f"the list of all could not be written to {file}: {words_of(error)}"
    return f"all in {file}"
