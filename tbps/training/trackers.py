"""TensorBoard and Weights & Biases: copies of `metrics.jsonl` for those who look at it there."""

from __future__ import annotations

import io
import netrc
import os
import platform
import time
from pathlib import Path
from typing import Any

from tbps.runs.atomic_file import WholeAppends
from tbps.runs.metrics_log import Line


class TensorBoard:
    """Writes an event file to `tensorboard/` in the run folder.

    Ours, not `SummaryWriter`: its thread dies at a full disk, and with it what it had not written.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        self._folder, self._step = folder / "tensorboard", step
        self._file: WholeAppends | None = None

    def write(self, lines: list[Line]) -> None:
        """Every number of every line, under its name; OSError: none of them."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        events = []
        if self._file is None:
            # Hides what an earlier start wrote beyond the checkpoint that this one goes on from.
            begun = SessionLog(status=SessionLog.START)
            events = [Event(file_version="brain.Event:2"), Event(step=self._step + 1, session_log=begun)]
        for line in lines:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in _numbers(line).items()]
            events.append(Event(step=line["step"], summary=Summary(value=values)))
        piece = io.BytesIO()
        for event in events:
            event.wall_time = time.time()
            RecordWriter(piece).write(event.SerializeToString())
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}"
            self._file = WholeAppends(self._folder / name)
        self._file.append(piece.getvalue())

    def close(self) -> None:
        """Close the event file."""
        if self._file is not None:
            self._file.close()


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
