"""Tensors of a TorchScript archive, as OpenAI published CLIP, read as data: none of the code inside is parsed or run.

`torch.jit.load` compiles the archive's code and runs what it defines for loading; `torch.load(weights_only=True)` refuses
such an archive. So its pickle is read here by an unpickler that knows tensors, plain containers and, for every class of the
archive's own, one dumb holder of attributes. Anything else that the pickle asks for is refused before it is looked up.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Held:
    """An object of a class that the archive defines: its attributes, and nothing it could do."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state) if isinstance(state, dict) else {}


def _same(value: Any, *_: Any) -> Any:
    return value


class _Reader(pickle.Unpickler):
    """Unpickles `data.pkl`; storages come from the archive's files."""

    def __init__(self, pickled: bytes, read: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._read = read

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may name: one of these, or it is refused."""
        if module == "__torch__" or module.startswith("__torch__."):
            return _Held
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _same,
            **{("torch.jit._pickle", f"build_{kind}list"): _same for kind in ("int", "double", "bool", "tensor")},
            ("torch.jit._pickle", "restore_type_tag"): _same,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a storage, one dimension."""
        _, dtype, key, _, size = pid
        if not int(size):
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(self._read(str(key))), dtype=dtype, count=int(size))


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)


def is_torchscript(path: Path) -> bool:
    """Whether a file is a zip archive with TorchScript's constants in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of the archive's module, under the names of its state dict.

    pickle.UnpicklingError: its pickle asks for something else than data. ValueError, LookupError, BadZipFile: damaged.
    """
    with zipfile.ZipFile(path) as archive:
        top = next(name.split("/")[0] for name in archive.namelist() if name.endswith("/constants.pkl"))
        if f"{top}/byteorder" in archive.namelist() and archive.read(f"{top}/byteorder") != b"little":
            raise ValueError("its numbers are stored big end first")
        reader = _Reader(archive.read(f"{top}/data.pkl"), lambda key: archive.read(f"{top}/data/{key}"))
        module = reader.load()
    out: dict[str, Tensor] = {}
    _collect(module, "", out)
    return out


def _collect(module: Any, prefix: str, out: dict[str, Tensor]) -> None:
    for name, value in module.attributes.items() if isinstance(module, _Held) else ():
        if isinstance(value, Tensor):
            out[f"{prefix}{name}"] = value
        else:
            _collect(value, f"{prefix}{name}.", out)
