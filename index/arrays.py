"""Arrays that grow, aligned to cache lines."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Uninitialised C-ordered array whose data starts on a cache line."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    aligned: NDArray[Any] = raw[start : start + size].view(dtype).reshape(shape)
    return aligned


class Growable:
    """A C-ordered array with room to grow along its first axis.

    `view` is the filled part. It may be a private map of a file at first: growing copies it to memory.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self._buffer = array
        self._count = len(array)

    @classmethod
    def empty(cls, row_shape: tuple[int, ...], dtype: Any) -> "Growable":
        return cls(aligned_empty((0, *row_shape), dtype))

    @property
    def view(self) -> NDArray[Any]:
        return self._buffer[: self._count]

    def append(self, rows: NDArray[Any]) -> None:
        self.extend(len(rows))[...] = rows

    def extend(self, count: int) -> NDArray[Any]:
        """Add `count` uninitialised rows and return them."""
        total = self._count + count
        if total > len(self._buffer):
            self._grow(max(total, min(2 * self._count, self._count + (1 << 20))) if self._count else total)
        self._count = total
        return self._buffer[total - count : total]

    def truncate(self, count: int) -> None:
        """Forget all rows from `count` on."""
        self._count = min(self._count, count)

    def _grow(self, capacity: int) -> None:
        larger = aligned_empty((capacity, *self._buffer.shape[1:]), self._buffer.dtype)
        larger[: self._count] = self.view
        self._buffer = larger

    @property
    def nbytes(self) -> int:
        return int(self._buffer.nbytes)
