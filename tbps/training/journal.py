"""Where a run's numbers go: `metrics.jsonl`, trackers, the progress line; and the check that they are finite."""

from __future__ import annotations

import logging
import math

from accelerate import Accelerator

from tbps.config.run import Run
from tbps.config.serialise import to_json
from tbps.training.atomic_file import write_json
from tbps.training.distributed import gather_objects, on_main
from tbps.training.metrics_log import Line, MetricsLog
from tbps.training.progress import Progress
from tbps.training.run_folder import RunFolder
from tbps.training.trackers import TensorBoard, WandB

logger = logging.getLogger(__name__)

_KEYS_SHOWN = 4


class Journal:
    """Collects lines on every process and writes them on the first."""

    def __init__(self, run: Run, folder: RunFolder, accelerator: Accelerator, *, step: int, total_steps: int) -> None:
        self.run, self.folder = run, folder
        self.progress = Progress(step=step, total_steps=total_steps, batch_pairs=run.data.batch_pairs)
        self.last_pairs_per_s = 0.0
        """Speed at the last line that was shown; 0 before the first."""
        self._lines: list[Line] = []
        self._log: MetricsLog | None = None
        self._trackers: list[TensorBoard | WandB] = []
        if accelerator.is_main_process:
            self._log = MetricsLog(folder.metrics, step=step)
            if run.loop.tensorboard:
                self._trackers.append(TensorBoard(folder.path, step=step))
            if run.loop.wandb:
                self._trackers.append(WandB(folder.path, config=to_json(run), project=run.recipe, name=run.name))

    def add(self, line: Line) -> None:
        """Take the line of a step; every `log_steps` steps write and show."""
        self._lines.append(line)
        if line["step"] % self.run.loop.log_steps == 0 or line["step"] == self.progress.total_steps:
            pairs_per_s = self.progress.pairs_per_second(line["step"])
            line["pairs_per_s"] = round(pairs_per_s, 2)
            self.last_pairs_per_s = pairs_per_s
            self.flush()
            if self._log is not None:
                logger.info("%s", self.progress.sentence(line, pairs_per_s))

    def add_evaluation(self, split: str, step: int, values: dict[str, float]) -> None:
        """Write and show the result of an evaluation."""
        self._lines.append({"step": step, "split": split, **values})
        self.flush()
        if self._log is not None:
            shown = "  ".join(f"{name} {value:.2f}" for name, value in values.items() if name != "weights_of_step")
            logger.info("%s with the weights of step %d: %s", split, values["weights_of_step"], shown)

    def flush(self) -> None:
        """Write all lines."""
        if self._log is not None:
            self._log.write(self._lines)
            for tracker in self._trackers:
                tracker.write(self._lines)
        self._lines = []

    def sync(self) -> None:
        """Write all lines and wait until they are on the disk."""
        self.flush()
        if self._log is not None:
            self._log.sync()

    def close(self) -> None:
        """Write the rest and close everything."""
        self.flush()
        for closing in (*self._trackers, *([self._log] if self._log is not None else [])):
            closing.close()


def check_finite(numbers: dict[str, float], *, step: int, keys: tuple[str, ...], folder: RunFolder) -> None:
    """ValueError if a number is not finite: names it, the step and the pairs, which `failed_step.json` lists in full."""
    wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
    if not wrong:
        return
    all_keys = [key for part in gather_objects(keys) for key in part]
    file = folder.path / "failed_step.json"
    shown = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
    on_main(lambda: write_json(file, {"step": step, "numbers": shown, "pairs": all_keys}))
    pairs = ", ".join(all_keys[:_KEYS_SHOWN])
    if len(all_keys) > _KEYS_SHOWN:
        pairs += f" and {len(all_keys) - _KEYS_SHOWN} more"
    raise ValueError(
        f"{wrong[0].replace('/', ' ')} is {numbers[wrong[0]]} in step {step} (pairs {pairs}, all in {file});"
        " this update was not applied and the last checkpoint is as it was: look at these pairs, or lower optim.lr in a"
        " new run"
    )
