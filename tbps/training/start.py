"""Where a run starts: own checkpoint, else given weights, else encoders' weights, else scratch. Written out in `start`."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from torch import Tensor

from tbps.config.start import Start
from tbps.methods.method import Method
from tbps.runs import checkpoint
from tbps.runs.run_folder import RunFolder
from tbps.runs.selection import best_checkpoint
from tbps.training.distributed import on_main

logger = logging.getLogger(__name__)


def start(method: Method, folder: RunFolder, given: Start, *, reranks: bool = True) -> tuple[int, dict[str, Tensor]]:
    """Fill the method; return the optimiser steps that are done, and the optimiser's state after them.

    reranks: the run's evaluations score by the matching head. ValueError where what the run reads would stay random: it is
    not in the start weights, and no loss trains it.
    """
    own = on_main(lambda: checkpoint.newest(folder.checkpoints, set_aside=True), doing="checking the checkpoints")
    if own is not None:
        return _resume(method, own)
    held: set[str] = set()
    if given.weights:
        held = _load_weights(method, given)
    elif given.bert or given.vit or given.clip:
        held = _load_encoders(method, given)
    else:
        logger.info("starting from random weights")
    _check_untrained(method, held, given, reranks=reranks)
    method.before_first_step()
    return 0, {}


def _resume(method: Method, folder: Path) -> tuple[int, dict[str, Tensor]]:
    checkpoint.load_model(method, folder)
    step = int(checkpoint.read_progress(folder)["step"])
    logger.info("going on from %s (%d steps done)", folder, step)
    return step, checkpoint.read_tensors(folder / checkpoint.OPTIMISER_FILE)


def _check_untrained(method: Method, held: set[str], given: Start, *, reranks: bool) -> None:
    random = [name for name in method.untrained(reranks=reranks) if name not in held]
    if random:
        source = given.weights or " and ".join(filter(None, (given.vit, given.bert, given.clip))) or "random weights"
        raise ValueError(
            f"starting from {source}: {', '.join(random[:3])}{', ...' if len(random) > 3 else ''} would stay random, because"
            " the start weights lack what this run reads and no loss with a weight trains; expected one of the two: start"
            " from weights that hold it, or give a loss that trains it a weight (for an image-text matching head: or set"
            " evaluation.rerank_k 0)"
        )


def _load_weights(method: Method, given: Start) -> set[str]:
    """Names of what was placed."""
    from tbps.convert.weights import load_weights

    path, grid = Path(given.weights).expanduser(), None
    if path.is_dir():
        run = RunFolder(path).read_run()
        grid = run.method.grid(run.data.image_px)
        path = on_main(lambda: best_checkpoint(path), doing="checking the checkpoints") / checkpoint.MODEL_FILE
    if given.sha256:
        on_main(lambda: _check_digest(path, given.sha256), doing=f"reading {path}")
    report = load_weights(method, path, old_grid=grid)
    logger.info("starting from %s: %s", path, report.text())
    return set(report.placed)


def _check_digest(path: Path, expected: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"start.weights {path} cannot be read ({error.strerror}); expected a weights file") from error
    if found != expected.lower():
        raise ValueError(
            f"start.weights {path} has sha256 {found}, expected {expected}: get the right file, or clear start.sha256"
        )


def _load_encoders(method: Method, given: Start) -> set[str]:
    from tbps.convert.clip import load_clip
    from tbps.convert.pretrained import load_bert, load_vit

    placed: set[str] = set()
    for name, load in ((given.vit, load_vit), (given.bert, load_bert), (given.clip, load_clip)):
        if name:
            report = load(method, name)
            logger.info("starting from %s: %s", name, report.text())
            placed.update(report.placed)
    return placed
