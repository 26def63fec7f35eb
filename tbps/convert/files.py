"""Reading weights that others wrote: torch, TorchScript and safetensors files, without running code from them."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tbps.convert.torchscript import is_torchscript, read_torchscript

WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
"""Keys under which training scripts (`module`: DeepSpeed) store the weights, beside optimiser and config."""

ABOUT = "tbps"
"""Key of a torch file that we export beside its weights: what no tensor tells, as the metadata of a file under our names."""

_PLAIN = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)

# What a damaged or foreign file makes torch's restricted unpickler raise.
_UNREADABLE = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(OverflowError, struct.error, zipfile.BadZipFile),
)


@dataclass(kw_only=True)
class ForeignWeights:
    """Tensors of one or several files under their own keys."""

    tensors: dict[str, Tensor]
    others: list[str] = field(default_factory=list)
    """Entries that are not weights (optimiser, config, epoch, ...), left out."""
    sha256: str
    """Digest of the file; of several files, their digests joined by commas."""
    source: str
    """What the user named."""
    about: dict[str, str] = field(default_factory=dict)
    """What the file says of its weights: safetensors' metadata, or what an export of ours has beside them."""


def read_foreign(path: Path) -> ForeignWeights:
    """Read a torch or safetensors file. ValueError in one sentence if it is neither, damaged, or wants to run code."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise ValueError(f"{path}: found {found}, expected a file of weights (torch or safetensors); check the path")
    content, about = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    tensors, others = _weights(path, content)
    _check_plain(path, tensors)
    return ForeignWeights(tensors=tensors, others=others, sha256=sha256_of(path), source=str(path), about=about)


def sha256_of(path: Path) -> str:
    """Digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_safetensors(path: Path) -> bool:
    """A header length of 8 bytes, then a JSON object; or the name says so."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{" or path.suffix == ".safetensors"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); get it again") from error


def _read_torch(path: Path) -> tuple[object, dict[str, str]]:
    """What was saved, and what an export of ours says beside it."""
    try:
        if is_torchscript(path):
            return read_torchscript(path), {}
        # Mapping a file leaves on the disk what is not copied out of it: half of a checkpoint is the optimiser's.
        with torch.serialization.safe_globals(_allowed_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.[\w.]+)", str(error))
        if wanted is None:  # torch's own text is about an option that its caller may change
            raise _not_a_tensor_file(path, ValueError("no pickle of tensors")) from error
        raise ValueError(
            f"{path}: asks to run {wanted[1]}, which a file of weights must not (nothing was run); get a file that holds"
            " tensors, numbers and text only, or save its state dict anew where you trust it"
        ) from error
    except _UNREADABLE as error:
        raise _not_a_tensor_file(path, error) from error
    about = content.get(ABOUT) if isinstance(content, Mapping) else None
    return content, {str(key): str(value) for key, value in about.items()} if isinstance(about, Mapping) else {}


def _not_a_tensor_file(path: Path, error: Exception) -> ValueError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(
        f"{path}: not a whole torch or safetensors file ({path.stat().st_size} bytes; {reason[:120]}); expected weights as"
        " their authors published them: get the file again and compare its size"
    )


def _allowed_globals() -> list[Any]:
    """Harmless classes in files of older scripts: numpy numbers and arrays under old and new names, parsed arguments."""
    from numpy._core import multiarray

    numbers = [getattr(np.dtypes, name) for name in np.dtypes.__all__ if not name.startswith(("Object", "Str", "Void"))]
    arrays = [
        (getattr(multiarray, name), f"numpy.{package}.multiarray.{name}")
        for package in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ]
    return [argparse.Namespace, np.dtype, np.ndarray, *numbers, *arrays]


def _weights(path: Path, content: object) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a state dict, bare or wrapped, perhaps several times, and what else there is."""
    others: list[str] = []
    state = content
    while isinstance(state, Mapping):
        wrapper = next((key for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if wrapper is None:
            break
        others += [str(key) for key in state if key != wrapper]
        state = state[wrapper]
    entries = {str(key): value for key, value in state.items()} if isinstance(state, Mapping) else {}
    tensors = {key: value.detach() for key, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        found = f"keys {', '.join(list(entries)[:4])}" if entries else f"a {type(content).__name__}"
        raise ValueError(
            f"{path}: holds no weights (found {found}), expected a dictionary of tensors, bare or under"
            f" {' or '.join(WRAPPERS)}; name the file that holds the model"
        )
    return tensors, others + [key for key in entries if key not in tensors]


def _check_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Dense numbers of the usual types: what else torch can store has no one meaning as a weight."""
    for key, tensor in tensors.items():
        if tensor.is_quantized:
            found = f"quantised ({tensor.dtype})"
        elif tensor.layout != torch.strided:
            found = f"sparse ({tensor.layout})"
        elif tensor.is_meta:
            found = "without values (device meta)"
        elif tensor.dtype not in _PLAIN:
            found = f"of type {tensor.dtype}"
        else:
            continue
        raise ValueError(
            f"{path}: {key} is {found}, expected dense floating-point numbers; save it as such where it was made"
            " (`tensor.dequantize()`, `.to_dense()` or `.float()`)"
        )
