"""Loading weights into a method: what fits is placed, positions are interpolated, the rest is reported or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tbps.convert.clip_fit import Told, check_fit, have_towers
from tbps.convert.clip_names import POSITIONS as CLIP_POSITIONS
from tbps.convert.completeness import check_finite
from tbps.nn.queue import EMPTY
from tbps.nn.vit import PositionResize, resize_positions

Grid = tuple[int, int]

POSITIONS = (
    "online.image_encoder.positions",
    "momentum_encoder.image_encoder.positions",
    "mae_decoder.positions",
    CLIP_POSITIONS,
)
"""One row per patch and one for [CLS]; the decoder's and CLIP's have no leading dimension."""
_WORDS = "online.text_encoder.words.weight"
_QUEUE, _MOMENTUM = "queue.", "momentum_encoder."
_OF_THE_DATA = ("classifier.weight", "classifier.bias")
"""What belongs to the identities of the data that it was trained on, and starts anew on others."""


@dataclass(kw_only=True)
class LoadReport:
    """What happened to every tensor."""

    placed: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    """Position embeddings interpolated to another grid."""
    missing: list[str] = field(default_factory=list)
    """Tensors of the method that the file does not have: they keep their start values."""
    copied: list[str] = field(default_factory=list)
    """Tensors of the momentum encoder that were taken from the online one."""
    unread: list[str] = field(default_factory=list)
    """Tensors of the file's momentum encoder that no loss of the method reads: the method has the online ones alone."""
    unplaced: list[str] = field(default_factory=list)
    """Tensors of the file that the method does not have."""
    queue: str = ""
    """Why a queue in the file was not used."""

    def text(self) -> str:
        """One line."""
        parts = [f"{len(self.placed)} tensors placed"]
        parts += [f"{len(self.resized)} position tables interpolated"] if self.resized else []
        parts += [f"{len(self.copied)} momentum tensors copied from the online encoder"] if self.copied else []
        parts += [f"{len(self.missing)} missing in the file: {_some(self.missing)}"] if self.missing else []
        parts += (
            [f"{len(self.unread)} momentum tensors that no loss reads not needed: {_some(self.unread)}"]
            if self.unread
            else []
        )
        parts += [f"{len(self.unplaced)} without a place: {_some(self.unplaced)}"] if self.unplaced else []
        parts += [f"the queue starts empty: {self.queue}"] if self.queue else []
        return "; ".join(parts)


def load_weights(
    method: nn.Module,
    path: Path,
    *,
    keep_queue: bool = False,
    old_grid: Grid | None = None,
    told: Mapping[str, str] | None = None,
) -> LoadReport:
    """Read a safetensors file under our names (made by `tbps convert`, or a checkpoint's model file) into `method`.

    old_grid: patches of the file's images; told: what its method's config says that no shape tells (`told()`). Both where
    the file does not say it itself, as a checkpoint does not.
    ValueError: it does not fit, or holds adapters alone.
    """
    tensors, metadata = read_weights(path)
    if any(".lora_" in name for name in tensors):
        raise ValueError(
            f"{path} holds adapters and heads, without the encoders under them; expected whole weights: write them by"
            " `tbps convert --export --merge`, or give these as lora.adapters and their encoders as start.weights"
        )
    grid = read_grid(metadata.get("image_grid", "")) or old_grid
    if have_towers(tensors) and have_towers(method.state_dict()):
        check_fit(method, tensors, Told.of_metadata({**(told or {}), **metadata}), str(path))
    return place(method, tensors, source=str(path), keep_queue=keep_queue, old_grid=grid)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, on the host. ValueError if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); convert a foreign checkpoint first with `tbps convert`"
        ) from error


@torch.no_grad()
def place(
    method: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    keep_queue: bool = False,
    old_grid: Grid | None = None,
) -> LoadReport:
    """Copy tensors into the method. The queue belongs to the data it was filled from: kept on request only.

    old_grid: rows and columns of the patches in the file, square when not given. ValueError where a shape differs that
    cannot be interpolated: another architecture; or where a number is not finite. The method is untouched then.
    """
    report = LoadReport()
    check_finite(tensors, source)
    own = method.state_dict()
    _check_vocabulary(own, tensors, source)
    fitted: dict[str, Tensor] = {}
    wrong: list[str] = []
    for name, tensor in tensors.items():
        if name.startswith(_QUEUE) and name in own:
            continue
        if name not in own:
            (report.unread if _online(name) in own else report.unplaced).append(name)
            continue
        if name in _OF_THE_DATA and tensor.shape != own[name].shape:
            report.unplaced.append(f"{name} (of {len(tensor)} identities)")
            continue
        fitted[name] = tensor
        if name in POSITIONS and tensor.dim() == own[name].dim() and tensor.shape[-1] == own[name].shape[-1]:
            fitted[name] = _resized(method, name, tensor, old_grid, source)
            if fitted[name] is not tensor:
                report.resized.append(name)
        if fitted[name].shape != own[name].shape:
            wrong.append(f"{name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
    if wrong or not fitted:
        raise ValueError(_another_architecture(source, wrong))
    fitted |= _queue(own, tensors, keep=keep_queue, report=report)
    for name, tensor in fitted.items():
        own[name].copy_(tensor)
    report.placed = list(fitted)
    _fill_momentum_encoder(own, report)
    return report


def grid_text(grid: Grid) -> str:
    """Rows and columns of patches as metadata of a file: `24x8`."""
    return f"{grid[0]}x{grid[1]}"


def read_grid(text: str) -> Grid | None:
    """The inverse of `grid_text`; None for an empty text."""
    if not text:
        return None
    rows, columns = text.split("x")
    return int(rows), int(columns)


def checked_grid(patches: int, grid: Grid | None, source: str) -> Grid:
    """The grid of so many patches: as given, else square. ValueError where it does not fit, or is not known."""
    side = round(patches**0.5)
    if grid is None and side * side != patches:
        raise ValueError(
            f"{source}: its position table has {patches} patches, which no square has; say rows and columns with"
            " --grid ROWS COLUMNS (an image of 384 x 128 in patches of 16: --grid 24 8)"
        )
    rows, columns = grid or (side, side)
    if rows * columns != patches or rows < 1:
        raise ValueError(
            f"{source}: a grid of {rows} x {columns} has {rows * columns} patches, and its position table {patches};"
            " say rows and columns of the images that it was trained on with --grid ROWS COLUMNS"
        )
    return rows, columns


def _resized(method: nn.Module, name: str, tensor: Tensor, old_grid: Grid | None, source: str) -> Tensor:
    """Positions on the method's grid; the same tensor where it is there already."""
    encoder = method.get_submodule("towers.image" if name == CLIP_POSITIONS else "online.image_encoder")
    grid: Grid = encoder.grid  # type: ignore[assignment]
    rule: PositionResize = getattr(encoder, "position_resize", "bicubic")
    rows = tensor.shape[-2]
    if old_grid is None and rows == 1 + grid[0] * grid[1]:
        return tensor
    table_1PD = tensor if tensor.dim() == 3 else tensor[None]
    try:
        resized_1PD = resize_positions(table_1PD, grid=grid, old_grid=old_grid, rule=rule)
    except ValueError as error:
        raise ValueError(
            f"{source}: {name} has {rows - 1} patches, expected a square grid or the method's {grid_text(grid)};"
            " of a checkpoint whose images are not square, name the run folder, or what `tbps convert --export` makes of it;"
            " of other weights, what `tbps convert --grid ROWS COLUMNS` makes of them"
        ) from error
    if resized_1PD is table_1PD:
        return tensor
    return resized_1PD if tensor.dim() == 3 else resized_1PD[0]


def _check_vocabulary(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    if _WORDS in own and _WORDS in tensors and len(own[_WORDS]) != len(tensors[_WORDS]):
        raise ValueError(
            f"{source}: its vocabulary has {len(tensors[_WORDS])} words, expected {len(own[_WORDS])}"
            " (method.bert.vocabulary-size); use the vocabulary that the file was made with, and its size"
        )


def _queue(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, keep: bool, report: LoadReport) -> dict[str, Tensor]:
    """The whole queue of the file if it is asked for and fits, else none of it and an empty one."""
    names = [name for name in own if name.startswith(_QUEUE)]
    found = {name: tensors[name] for name in names if name in tensors}
    if not found:
        return {}
    if not keep:
        report.queue = "that of the file belongs to the data it was filled from"
    elif wrong := [name for name in names if name not in found or found[name].shape != own[name].shape]:
        shape = tuple(found[wrong[0]].shape) if wrong[0] in found else "not in the file"
        report.queue = f"{wrong[0]} is {shape}, expected {tuple(own[wrong[0]].shape)}"
    else:
        return found
    own[f"{_QUEUE}identity_K"].fill_(EMPTY)
    own[f"{_QUEUE}pointer"].zero_()
    return {}


def _fill_momentum_encoder(own: Mapping[str, Tensor], report: LoadReport) -> None:
    """A momentum tensor that the file lacks starts equal to its online momentum_encoder."""
    placed = set(report.placed)
    for name in own:
        if name in placed or name.startswith(_QUEUE):
            continue
        if name.startswith(_MOMENTUM):
            own[name].copy_(own[_online(name)])
            report.copied.append(name)
        else:
            report.missing.append(name)


def _online(name: str) -> str:
    """What a tensor of the momentum encoder is a copy of; empty for others."""
    return "online." + name.removeprefix(_MOMENTUM) if name.startswith(_MOMENTUM) else ""


def _another_architecture(source: str, wrong: list[str]) -> str:
    found = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    return (
        f"{source}: not of this architecture ({found or 'no tensor has a name of this method'});"
        " choose the recipe or the sizes that the file was made with"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
