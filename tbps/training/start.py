"""Where a run starts: own checkpoint, else given weights, else encoders' weights, else scratch. Written out in `start`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tbps.config.lora import Lora
from tbps.config.run import Run
from tbps.config.start import Start
from tbps.convert.hub import find_model
from tbps.methods.method import Method
from tbps.runs import checkpoint
from tbps.runs.exported import read_exported
from tbps.runs.run_folder import RunFolder
from tbps.runs.selection import best_checkpoint
from tbps.training.adapters import WHOLE, Base, adapt, check_base, in_words, load_adapters
from tbps.training.distributed import on_main

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A filled method."""

    steps: int
    """Optimiser steps that are done."""
    optimiser_tensors: Mapping[str, Tensor]
    """The optimiser's state after them."""
    base: Base
    """What adapters sit on."""


def start(method: Method, folder: RunFolder, given: Start, *, reranks: bool = True, lora: Lora | None = None) -> Started:
    """Fill the method, and put adapters on its encoders where `lora` says so.

    reranks: the run's evaluations score by the matching head. ValueError where what the run reads would stay random: it is
    not in the start weights, and no loss trains it.
    """
    lora = lora or Lora()
    own = on_main(lambda: checkpoint.newest(folder.checkpoints, set_aside=True), doing="checking the checkpoints")
    if own is not None and not lora.on:
        return _resume(method, own, WHOLE)
    held = _fill(method, given)
    if own is None:
        _check_untrained(method, held, given, reranks=reranks, lora=lora)
    base = adapt(method, lora)
    if lora.on:
        logger.info("%s", in_words(method, lora))
    if own is not None:
        return _resume(method, own, base)
    if lora.adapters:
        logger.info("%s", load_adapters(method, base, lora))
    method.before_first_step()
    return Started(steps=0, optimiser_tensors={}, base=base)


def load_finished(method: Method, run: Run, folder: Path) -> None:
    """The weights of a checkpoint of `run` into a method as it is built: on its base, with adapters, where it has them."""
    base = WHOLE
    if run.lora.on:
        _fill(method, run.start)
        base = adapt(method, run.lora)
        check_base(base, checkpoint.read_progress(folder).get(checkpoint.BASE), folder)
    checkpoint.load_model(method, folder, without=base.frozen, copies=method.copies)


def _resume(method: Method, folder: Path, base: Base) -> Started:
    progress = checkpoint.read_progress(folder)
    check_base(base, progress.get(checkpoint.BASE), folder)
    checkpoint.load_model(method, folder, without=base.frozen, copies=method.copies)
    step = int(progress["step"])
    logger.info("going on from %s (%d steps done)", folder, step)
    return Started(steps=step, optimiser_tensors=checkpoint.read_tensors(folder / checkpoint.OPTIMISER_FILE), base=base)


def _fill(method: Method, given: Start) -> set[str]:
    """Start weights into the method; names of what was placed."""
    if given.weights:
        return _load_weights(method, given)
    if given.bert or given.vit or given.clip:
        return _load_encoders(method, given)
    logger.info("starting from random weights")
    return set()


def _check_untrained(method: Method, held: set[str], given: Start, *, reranks: bool, lora: Lora) -> None:
    names = list(method.untrained(reranks=reranks))
    if lora.on:
        encoders = tuple(f"{name}." for name in method.encoders)
        names += [name for name, _ in method.named_parameters() if name.startswith(encoders) and name not in names]
    random = [name for name in names if name not in held]
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

    path, grid, told = on_main(lambda: find_model(given.weights), doing=f"looking for {given.weights}"), None, None
    if not path.exists():  # of the hub, in the cache of another machine
        path = find_model(given.weights)
    if path.is_dir():
        run = RunFolder(path).read_run()
        grid, told = run.method.grid(run.data.image_px), run.method.told()
        path /= on_main(lambda: _weights_in(path).relative_to(path), doing=f"checking the weights in {path}")
    if given.sha256:
        on_main(lambda: _check_digest(path, given.sha256), doing=f"reading {path}")
    report = load_weights(method, path, old_grid=grid, told=told)
    logger.info("starting from %s: %s", path, report.text())
    return set(report.placed)


def _weights_in(folder: Path) -> Path:
    """The file of weights of an exported model, or of a run's best checkpoint. ValueError: there is none, or it is bad."""
    exported = read_exported(folder)
    if exported is None:
        return best_checkpoint(folder) / checkpoint.MODEL_FILE
    exported.check()
    return exported.weights


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
