"""Loading weights into a method: what fits is placed, positions are interpolated, the rest is reported or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tbps.nn.vit import resize_positions

_POSITIONS = ("online.image_encoder.positions", "twin.image_encoder.positions")


@dataclass(kw_only=True)
class LoadReport:
    """What happened to every tensor."""

    placed: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    """Position embeddings interpolated to another grid."""
    missing: list[str] = field(default_factory=list)
    """Tensors of the method that the file does not have: they keep their start values."""
    copied: list[str] = field(default_factory=list)
    """Momentum tensors taken from their online twins."""
    unplaced: list[str] = field(default_factory=list)
    """Tensors of the file that the method does not have."""

    def text(self) -> str:
        """One line."""
        parts = [f"{len(self.placed)} tensors placed"]
        parts += [f"{len(self.resized)} position tables interpolated"] if self.resized else []
        parts += [f"{len(self.copied)} momentum tensors copied from the online encoder"] if self.copied else []
        parts += [f"{len(self.missing)} missing in the file: {_some(self.missing)}"] if self.missing else []
        parts += [f"{len(self.unplaced)} without a place: {_some(self.unplaced)}"] if self.unplaced else []
        return "; ".join(parts)


def load_weights(method: nn.Module, path: Path, *, keep_queue: bool = False) -> LoadReport:
    """Read a safetensors file under our names (made by `tbps convert`, or a checkpoint's model file) into `method`."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); convert a foreign checkpoint first with `tbps convert`"
        ) from error
    return place(method, tensors, source=str(path), keep_queue=keep_queue)


@torch.no_grad()
def place(method: nn.Module, tensors: Mapping[str, Tensor], *, source: str, keep_queue: bool = False) -> LoadReport:
    """Copy tensors into the method. The queue belongs to the data it was filled from: kept on request only.

    ValueError where a shape differs that cannot be interpolated: another architecture.
    """
    report = LoadReport()
    own = method.state_dict()
    wrong: list[str] = []
    for name, tensor in tensors.items():
        if name.startswith("queue.") and not keep_queue:
            continue
        if name not in own:
            report.unplaced.append(name)
            continue
        if name in _POSITIONS and tensor.shape != own[name].shape and tensor.shape[-1] == own[name].shape[-1]:
            tensor = resize_positions(tensor, grid=method.online.image_encoder.grid)  # type: ignore[union-attr, arg-type]
            report.resized.append(name)
        if tensor.shape != own[name].shape:
            wrong.append(f"{name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
            continue
        own[name].copy_(tensor)
        report.placed.append(name)
    if wrong or not report.placed:
        found = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise ValueError(
            f"{source}: not of this architecture ({found or 'no tensor has a name of this method'});"
            " choose the recipe or the sizes that the file was made with"
        )
    _fill_twin(own, set(report.placed), report)
    return report


def _fill_twin(own: Mapping[str, Tensor], placed: set[str], report: LoadReport) -> None:
    """A momentum tensor that the file lacks starts equal to its online twin."""
    for name in own:
        if name in placed or name.startswith("queue."):
            continue
        online = "online." + name.removeprefix("twin.")
        if name.startswith("twin."):
            own[name].copy_(own[online])
            report.copied.append(name)
        else:
            report.missing.append(name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
