"""TensorBoard and Weights & Biases: copies of `metrics.jsonl` for those who look at it there."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any

from tbps.training.metrics_log import Line


class TensorBoard:
    """Writes event files to `tensorboard/` in the run folder."""

    def __init__(self, folder: Path, *, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what an earlier start wrote beyond the checkpoint that this one goes on from
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, lines: list[Line]) -> None:
        """Every number of every line, under its name."""
        for line in lines:
            for name, value in _numbers(line).items():
                self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        self._writer.close()


class WandB:
    """Writes to Weights & Biases: online where logged in, else to an offline folder in the run folder."""

    def __init__(self, folder: Path, *, config: dict[str, Any], project: str, name: str) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            name=name,
            id=f"{project}-{name}",
            resume="allow",
            dir=str(folder),
            config=config,
            mode="online" if _logged_in() else "offline",
        )
        # Our own step axis: a resumed run writes some steps again, which the built-in one forbids.
        self._run.define_metric("*", step_metric="step")

    def write(self, lines: list[Line]) -> None:
        """Every number of every line, under its name."""
        for line in lines:
            self._run.log({"step": line["step"], **_numbers(line)})

    def close(self) -> None:
        """Upload or store the rest."""
        self._run.finish()


def _logged_in() -> bool:
    """Whether a key is set or stored by `wandb login`. (wandb itself would ask at the keyboard.)"""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _numbers(line: Line) -> dict[str, float]:
    prefix = f"{line['split']}/" if "split" in line else "train/"
    return {f"{prefix}{key}": value for key, value in line.items() if key not in ("step", "split")}
