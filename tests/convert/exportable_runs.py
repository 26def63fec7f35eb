"""Run folders of `tiny` recipes without training: random weights in a checkpoint, as training writes them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from tbps.config.run import Run
from tbps.config.start import Start
from tbps.methods.registry import build_method
from tbps.runs import checkpoint
from tbps.runs.run_folder import OpenRunFolder
from tbps.text.word_pieces import train_vocabulary
from tbps.training.adapters import WHOLE
from tbps.training.start import start

CAPTIONS = (Path(__file__).parents[1] / "text/realistic_captions.txt").read_text(encoding="utf-8").splitlines()
VOCABULARY_SIZE = 500


def tiny_run(recipe: str, folder: Path) -> Run:
    """`recipes/<recipe>.py tiny` in `folder`, with a vocabulary of realistic captions; a dotted name is another module."""
    run: Run = importlib.import_module(recipe if "." in recipe else f"recipes.{recipe}").tiny()
    num_identities = 9 if run.needs.identities else 0
    data = replace(run.data, root="/home/somebody/data", num_identities=num_identities)
    run = replace(run, runs=str(folder / "runs"), data=data)
    if run.needs.text.tokeniser != "bert":
        return run
    vocabulary = folder / "vocab.txt"
    if not vocabulary.exists():
        train_vocabulary(CAPTIONS, size=VOCABULARY_SIZE, path=vocabulary)
    captioning = replace(run.data.captioning, vocabulary=str(vocabulary))
    method = replace(run.method, bert=replace(run.method.bert, vocabulary_size=VOCABULARY_SIZE))  # type: ignore[attr-defined, call-arg]
    return replace(run, method=method, data=replace(run.data, captioning=captioning))


def shallow(run: Run) -> Run:
    """The run with one layer in each encoder but BERT: it is traced sooner."""
    method: Any = run.method
    if hasattr(method, "towers"):
        towers = {name: replace(getattr(method.towers, name), layers=1) for name in ("image", "text")}
        return replace(run, method=replace(method, towers=replace(method.towers, **towers)))
    return replace(run, method=replace(method, vit=replace(method.vit, depth=1))) if hasattr(method, "vit") else run


def untrained_run(recipe: str, folder: Path, change: Callable[[Run], Run] = lambda run: run) -> Path:
    """A run folder with one checkpoint of seeded random weights; of adapters, with noise on CLIP's own random weights."""
    run = change(tiny_run(recipe, folder))
    if run.lora.on:
        run = replace(run, start=Start(weights=str(untrained_run("clip", folder, change))))
    torch.manual_seed(0)
    method = build_method(run.method, image_px=run.data.image_px, num_identities=run.data.num_identities)
    opened = OpenRunFolder(run)
    base = WHOLE
    if run.lora.on:
        base = start(method, opened, run.start, lora=run.lora, reranks=False).base
        _scatter(method)
    model = {name: tensor for name, tensor in method.state_dict().items() if name not in base.frozen}
    progress = {"step": 5, "total_steps": 5, checkpoint.BASE: base.sha256}
    checkpoint.save(opened.checkpoints, step=5, model=model, optimiser={"x": torch.zeros(2)}, progress=progress)
    opened.close()
    return opened.path


def _scatter(method: nn.Module) -> None:
    """Noise on what is trained: an adapter begins at zero."""
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def write_pictures(folder: Path, *, number: int, size: tuple[int, int] = (60, 120)) -> list[Path]:
    """Figures of two random colours with some noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(number):
        pixels = np.full((size[1], size[0], 3), rng.integers(0, 256, 3), np.uint8)
        pixels[: size[1] // 2] = rng.integers(0, 256, 3)
        noisy = np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{index:03d}.{'png' if index % 3 == 0 else 'jpg'}")
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths
