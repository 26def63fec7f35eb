"""Columns of many rows that processes share: strings in two arrays, and files of columns that are mapped, not read.

Forked loader workers share an array, where a list of strings would be copied page by page; all processes of a machine share
a mapped file, and read of it what they touch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

_START, _BYTES = ".start", ".utf8"
"""Endings of the two tensors of a string column."""


class StringColumn:
    """A read-only sequence of strings, kept as UTF-8 bytes and the offset at which each begins."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode("utf-8", errors="surrogatepass") for string in strings]
        lengths = np.fromiter((len(one) for one in encoded), dtype=np.int64, count=len(encoded))
        self.start_N = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        self.bytes: NDArray[np.uint8] = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    @classmethod
    def of(cls, start_N: NDArray[np.int64], utf8: NDArray[np.uint8]) -> StringColumn:
        """The column of these arrays. ValueError: the offsets do not fit the bytes."""
        if not len(start_N) or start_N[0] or start_N[-1] != len(utf8) or (np.diff(start_N) < 0).any():
            raise ValueError("its strings do not begin where they should")
        column = cls(())
        column.start_N, column.bytes = start_N, utf8
        return column

    def __len__(self) -> int:
        return len(self.start_N) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        start, end = self.start_N[index], self.start_N[index + 1]
        return self.bytes[start:end].tobytes().decode("utf-8", errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


Column = NDArray | StringColumn


def write_columns(path: Path, columns: Mapping[str, Column]) -> None:
    """Write a file (safetensors) for `map_columns`."""
    from safetensors.numpy import save_file

    tensors: dict[str, NDArray] = {}
    for name, column in columns.items():
        if isinstance(column, StringColumn):
            tensors |= {f"{name}{_START}": column.start_N, f"{name}{_BYTES}": column.bytes}
        else:
            tensors[name] = np.ascontiguousarray(column)
    save_file(tensors, path)


def map_columns(path: Path) -> dict[str, Column]:
    """The columns of a file, mapped into memory. ValueError: damaged, or another file."""
    from safetensors.torch import load_file  # unlike that of numpy, it maps

    try:
        arrays = {name: tensor.numpy() for name, tensor in load_file(path).items()}
        columns: dict[str, Column] = {}
        for name, array in arrays.items():
            if name.endswith(_START):
                plain = name.removesuffix(_START)
                columns[plain] = StringColumn.of(array, arrays[f"{plain}{_BYTES}"])
            elif not name.endswith(_BYTES):
                columns[name] = array
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged or another file ({error})") from error
    return columns
