"""Writing weights: a file that is whole or not there, and none overwritten unasked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tbps.convert.files import ABOUT
from tbps.runs.atomic_file import fsync_path

FORMAT = "tbps-weights-1"
"""Value of `format` in the metadata of files under our names."""


def check_out(out: Path, *, force: bool) -> None:
    """ValueError if `out` is a folder, or exists and is not to be replaced."""
    if out.is_dir():
        raise ValueError(f"{out} is a folder, expected the name of a file to write; add one")
    if out.exists() and not force:
        raise ValueError(f"{out} exists and is left as it is; choose another name, or overwrite it with --force")


def write_safetensors(tensors: Mapping[str, Tensor], out: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors under our names. OSError or SafetensorError leaves what was there before."""
    # Views of one storage cannot be saved: each gets its own.
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    _write(out, lambda aside: save_file(own, aside, metadata={"format": FORMAT, **metadata}))


def write_torch(
    tensors: Mapping[str, Tensor], out: Path, *, key: str = "model", about: Mapping[str, str] | None = None
) -> None:
    """Write a torch file with the tensors under `model`, as official checkpoints have them, or under another key.

    about: what `read_foreign` finds again beside them; official code leaves it alone.
    """
    beside = {ABOUT: dict(about)} if about else {}
    _write(out, lambda aside: torch.save({key: dict(tensors), **beside}, aside))


def _write(out: Path, save: Callable[[Path], None]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        save(aside)
        fsync_path(aside)
        aside.rename(out)
    finally:
        aside.unlink(missing_ok=True)
    fsync_path(out.parent)
