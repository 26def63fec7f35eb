"""Which checkpoint is the best: the highest mean of rank-1 and mAP on val; of equals, the earliest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tbps.config.run import Run
from tbps.runs import checkpoint
from tbps.runs.run_folder import RunFolder


def selection_value(values: Mapping[str, float]) -> float:
    """(rank_1 + mAP) / 2, 0-100."""
    return (values["rank_1"] + values["mAP"]) / 2


def best_step(folder: RunFolder) -> int | None:
    """Step of the best validation so far; None before the first. A function of the kept evaluations alone."""
    best: tuple[float, int] | None = None
    for step in folder.evaluated_steps("val"):
        values = folder.read_evaluation("val", step)
        assert values is not None
        value = selection_value(values)
        if best is None or value > best[0]:
            best = (value, step)
    return best[1] if best else None


def weights_sha256(run: Run, folder: Path) -> str:
    """Of the weights in a checkpoint folder of a run; with adapters, of them and of the base that they sit on."""
    own = checkpoint.model_sha256(folder)
    if not run.lora.on:
        return own
    return hashlib.sha256(f"{own} on {checkpoint.read_progress(folder).get(checkpoint.BASE)}".encode()).hexdigest()


def best_checkpoint(path: Path) -> Path:
    """Checkpoint folder of a run folder's best step, or its newest where nothing was validated. Verified."""
    folder = RunFolder(path)
    step = best_step(folder)
    if step is None or folder.read_run().evaluation.selection == "last":
        found = checkpoint.newest(folder.checkpoints)
        if found is None:
            raise ValueError(f"{path} holds no whole checkpoint; expected the folder of a run that has saved one")
        return found
    best = checkpoint.folder_of(folder.checkpoints, step)
    if reason := checkpoint.why_broken(best):
        raise ValueError(f"the best checkpoint {best} cannot be used: {reason}; copy it from a backup, or train again")
    return best
