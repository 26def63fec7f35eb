"""A finished model, opened alike wherever it lies: a run folder, what `tbps export` wrote, or a name of the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tbps.config.run import Run
from tbps.convert.export import read_by_training_alone
from tbps.convert.hub import find_model
from tbps.convert.weights import load_weights
from tbps.data.opening import evaluation_encoder
from tbps.methods.method import Method
from tbps.methods.registry import build_method, module_of
from tbps.nn.lora import frozen_to, merge_adapters
from tbps.runs import checkpoint
from tbps.runs.config_hash import config_hash
from tbps.runs.exported import Exported, read_exported
from tbps.runs.run_folder import RunFolder
from tbps.runs.selection import best_checkpoint, weights_sha256
from tbps.search.model import SearchModel
from tbps.text.tokeniser import Tokeniser, open_tokeniser
from tbps.training.devices import choose_device
from tbps.training.precision import keep_few_kernels, keep_float32
from tbps.training.start import load_finished


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What is known of a finished model before its weights are read."""

    source: str
    """As it was named."""
    folder: Path
    """Where it lies on this machine."""
    run: Run
    """What was trained, and how."""
    config_hash: str
    """Of the run's settings, on the machine that trained it too."""
    weights: Path
    """The run's checkpoint folder, or the file of exported weights."""
    checkpoint: str
    """Name of the checkpoint."""
    step: int
    """Optimiser steps behind the weights."""
    weights_sha256: str
    """Of what features depend on but preprocessing; a run and its export have the same."""
    exported: Exported | None
    """None: a run folder."""

    def method(self, *, merged: bool = False) -> Method:
        """The method with its weights, on the host, in evaluation mode; what only training reads may stay random.

        merged: adapters become part of the weights they sit on, in float32. ValueError: a file is missing or damaged, or no
        fit.
        """
        method = build_method(self.run.method, image_px=self.run.data.image_px, num_identities=self.run.data.num_identities)
        if self.exported is not None:
            _load_exported(method, self.exported)
        else:
            load_finished(method, self.run, self.weights)
            if merged and self.run.lora.on:
                frozen_to([method], torch.float32)  # a sum in bfloat16 would round adapters away
                merge_adapters(method)
        return method.eval()

    def tokeniser(self) -> Tokeniser:
        """What cuts captions into tokens. ValueError: its vocabulary is not there."""
        return open_tokeniser(self.run.data.captioning, self.run.needs.text, module_of(self.run.method))


def open_finished(source: str | Path) -> Finished:
    """A run folder with its best checkpoint, what `tbps export` wrote, or `hf:NAMESPACE/NAME`.

    ValueError: there is no such model, it has no whole checkpoint, or the hub cannot be asked.
    """
    folder = find_model(source)
    exported = read_exported(folder)
    if exported is not None:
        return Finished(
            source=str(source),
            folder=folder,
            run=exported.run,
            config_hash=exported.config_hash,
            weights=exported.weights,
            checkpoint=exported.checkpoint,
            step=exported.step,
            weights_sha256=exported.weights_sha256,
            exported=exported,
        )
    run = _read_run(folder)
    return finished_at(folder, run, best_checkpoint(folder), source=str(source))


def finished_at(folder: Path, run: Run, weights: Path, *, source: str = "") -> Finished:
    """The model of one checkpoint of a run; source: how it was named, empty where it is the folder."""
    return Finished(
        source=source or str(folder),
        folder=folder,
        run=run,
        config_hash=config_hash(run),
        weights=weights,
        checkpoint=weights.name,
        step=int(checkpoint.read_progress(weights)["step"]),
        weights_sha256=weights_sha256(run, weights),
        exported=None,
    )


def load_model(source: str | Path) -> SearchModel:
    """A finished model as `tbps evaluate` scores it, on the device of this process: what `tbps.load` gives.

    source: as of `open_finished`. ValueError: there is none, or weights, vocabulary or device do not fit.
    """
    finished = open_finished(source)
    run, tokeniser, device = finished.run, finished.tokeniser(), own_device()
    keep_float32()
    keep_few_kernels()
    return SearchModel(
        method=finished.method().to(device),
        encoder=evaluation_encoder(run.data.captioning, tokeniser),
        image_px=run.data.image_px,
        pixels=run.data.evaluation_pixels,
        device=device,
        precision=run.loop.precision,
        batch_images=run.evaluation.batch_images,
        source=finished.source,
        weights_sha256=finished.weights_sha256,
    )


def merged_weights(path: Path) -> dict[str, Tensor]:
    """State of a run's best checkpoint with its adapters merged into the weights they sit on, under the names without them.

    ValueError: the run has no adapters, or its base is not the one that they were trained on.
    """
    finished = open_finished(path)
    if finished.exported is not None or not finished.run.lora.on:
        raise ValueError(f"{path} has no adapters to merge; leave out --merge")
    return finished.method(merged=True).state_dict()


def own_device() -> torch.device:
    """The GPU of this process, or the CPU. ValueError: a GPU was granted or asked for, and none is found."""
    chosen = choose_device()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if chosen.kind == "cuda" else torch.device("cpu")


def _read_run(path: Path) -> Run:
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise ValueError(
            f"{path} holds no config.json, expected a run folder (runs/<recipe>/<name>), what tbps export wrote, or"
            " hf:NAMESPACE/NAME; check the path"
        )
    return folder.read_run()


def _load_exported(method: Method, exported: Exported) -> None:
    exported.check()
    run = exported.run
    report = load_weights(method, exported.weights, told=run.method.told(), old_grid=run.method.grid(run.data.image_px))
    missing = [name for name in report.missing if not name.startswith(read_by_training_alone(run))]
    if missing or report.unplaced:
        raise ValueError(
            f"{exported.weights}: {', '.join([*missing, *report.unplaced][:3])} is not what {type(run.method).__name__} of"
            " this version has; use the version in config.json, or export the run again"
        )
