"""Files of columns that are larger than memory: opened without being read, and checked piece by piece as they are read.

Rows are read by their place in the file. All processes of a machine share what the system keeps of it in its cache, and none
holds anything of its own: pages of a file that is mapped would count as memory of each process that has touched them, and
training touches every row in every epoch.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE_BYTES = 1 << 16
"""What is checked at once."""
_BLOCK_ROWS = 1 << 16
_TYPES = {"I8": "<i1", "U8": "<u1", "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8"}
"""numpy's names of the types that columns have in a safetensors file."""


def piece_crcs(path: Path) -> NDArray[np.uint32]:
    """(P,) CRC-32 of each piece of a file."""
    with path.open("rb") as file:
        return np.array([zlib.crc32(piece) for piece in iter(lambda: file.read(PIECE_BYTES), b"")], dtype=np.uint32)


class StoredBytes:
    """The bytes of a file. Picklable: another process opens it again."""

    def __init__(self, path: Path, *, crc_P: NDArray[np.uint32] | None, damage: Callable[[int, int], str]) -> None:
        """crc_P: of its pieces; None where the whole file was checked. damage: what to say of a damaged range of bytes.

        ValueError: the file has not as many pieces.
        """
        self._path, self._crc_P, self._damage = path, crc_P, damage
        self._file = path.open("rb", buffering=0)
        self.num_bytes = os.fstat(self._file.fileno()).st_size
        num_pieces = -(-self.num_bytes // PIECE_BYTES)
        if crc_P is not None and len(crc_P) != num_pieces:
            raise ValueError(damage(0, self.num_bytes))
        self._checked = bytearray(0 if crc_P is None else num_pieces)
        """A byte for each piece: 1 where this process has read it."""

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self._path, "crc_P": self._crc_P, "damage": self._damage}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["path"], crc_P=state["crc_P"], damage=state["damage"])  # type: ignore[misc]

    def read(self, start: int, size: int) -> bytes:
        """The `size` bytes from `start` on. ValueError: they are not what they should be."""
        last = start + size
        if self._crc_P is not None:
            for piece in range(start // PIECE_BYTES, min(-(-last // PIECE_BYTES), len(self._checked))):
                if not self._checked[piece]:
                    self._check(piece)
        content = os.pread(self._file.fileno(), size, start) if 0 <= start <= last else b""
        if len(content) != size:
            raise ValueError(self._damage(start, last))
        return content

    def _check(self, piece: int) -> None:
        first = piece * PIECE_BYTES
        content = os.pread(self._file.fileno(), PIECE_BYTES, first)
        assert self._crc_P is not None
        if zlib.crc32(content) != self._crc_P[piece]:
            raise ValueError(self._damage(first, first + PIECE_BYTES))
        self._checked[piece] = 1


class StoredColumn:
    """Numbers, a row each; nothing is read before it is asked for."""

    def __init__(self, file: StoredBytes, *, start: int, dtype: str, shape: tuple[int, ...]) -> None:
        self._file, self._start, self._shape = file, start, shape
        self._dtype = np.dtype(dtype)
        self._row_bytes = self._dtype.itemsize * math.prod(shape[1:])

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, row: int) -> Any:
        """The number, or the array, of a row."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.rows(row, row + 1)[0]

    def rows(self, first: int, last: int) -> NDArray[Any]:
        """A copy of the rows from `first` to before `last`, in memory."""
        size = (last - first) * self._row_bytes
        content = self._file.read(self._start + first * self._row_bytes, size)
        return np.frombuffer(content, dtype=self._dtype).reshape(last - first, *self._shape[1:])

    def read(self, start: int, size: int) -> bytes:
        """Bytes of a column of bytes."""
        return self._file.read(self._start + start, size)

    def blocks(self, last: int) -> Iterator[NDArray[Any]]:
        """The rows before `last`, some at a time."""
        return (self.rows(first, min(first + _BLOCK_ROWS, last)) for first in range(0, last, _BLOCK_ROWS))


class StoredStrings:
    """A read-only sequence of strings, as `StringColumn`."""

    def __init__(self, start_N: StoredColumn, utf8: StoredColumn) -> None:
        self._start_N, self._utf8 = start_N, utf8

    def __len__(self) -> int:
        return len(self._start_N) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        start, end = self._start_N.rows(index, index + 2).tolist()
        return self._utf8.read(start, end - start).decode("utf-8", errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))


def open_columns(file: StoredBytes) -> dict[str, StoredColumn | StoredStrings]:
    """The columns of a file that `write_columns` wrote. ValueError: it is another file."""
    length = int.from_bytes(file.read(0, 8), "little")
    header = json.loads(file.read(8, length))
    header.pop("__metadata__", None)
    plain = {
        name: StoredColumn(
            file, start=8 + length + about["data_offsets"][0], dtype=_TYPES[about["dtype"]], shape=tuple(about["shape"])
        )
        for name, about in header.items()
    }
    strings = {name.removesuffix(".start") for name in plain if name.endswith(".start")}
    columns: dict[str, StoredColumn | StoredStrings] = {
        name: column for name, column in plain.items() if name.partition(".")[0] not in strings
    }
    return columns | {name: StoredStrings(plain[f"{name}.start"], plain[f"{name}.utf8"]) for name in strings}
