"""Many strings in two arrays: forked loader workers share them, where a list of strings would be copied page by page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray


class StringColumn:
    """A read-only sequence of strings, kept as UTF-8 bytes and the offset at which each begins."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode("utf-8", errors="surrogatepass") for string in strings]
        lengths = np.fromiter((len(one) for one in encoded), dtype=np.int64, count=len(encoded))
        self._start_N = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        self._bytes: NDArray[np.uint8] = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._start_N) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        start, end = self._start_N[index], self._start_N[index + 1]
        return self._bytes[start:end].tobytes().decode("utf-8", errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
