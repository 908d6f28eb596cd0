"""Records sorted into groups on disk, for data larger than memory."""

import os
from collections.abc import Iterator
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Spool:
    """A temporary file of records by group: written in runs in any order, read a group at a time.

    The file has no name: nothing is left of it, however the process ends.

    Parameters
    ----------
    folder : str
        Where to put it.
    dtype : dtype
        Of a record.
    groups : int
        How many.
    """

    def __init__(self, folder: str, dtype: np.dtype[Any], groups: int) -> None:
        self._file = TemporaryFile(dir=folder, prefix=".nearhash-", suffix=".tmp")  # noqa: SIM115
        self.dtype = dtype
        self._extents: list[list[tuple[int, int]]] = [[] for _ in range(groups)]  # (offset in bytes, records)
        self._end = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the disk back."""
        self._file.close()

    def append(self, groups: NDArray[np.integer[Any]], records: NDArray[Any]) -> None:
        """Add records (n,), each to its group (n,); their order within a group stays."""
        order = np.argsort(groups, kind="stable")
        ordered = groups[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        sizes = np.diff(starts, append=len(ordered))
        self._file.write(np.ascontiguousarray(records[order]).view(np.uint8).data)
        for group, start, size in zip(ordered[starts].tolist(), starts.tolist(), sizes.tolist(), strict=True):
            self._extents[group].append((self._end + start * self.dtype.itemsize, size))
        self._end += len(records) * self.dtype.itemsize

    def size(self, group: int) -> int:
        """Records in a group."""
        return sum(size for _, size in self._extents[group])

    def read(self, group: int, most: int | None = None) -> NDArray[Any]:
        """The records of a group in the order in which they came; no more than the first `most`, if given."""
        pieces = self.pieces(group, self.size(group) if most is None else most)
        return next(pieces, np.empty(0, self.dtype))

    def pieces(self, group: int, most: int) -> Iterator[NDArray[Any]]:
        """The records of a group, at most so many at once."""
        self._file.flush()
        waiting = list(reversed(self._extents[group]))
        left = self.size(group)
        while left:
            records = np.empty(min(left, most), self.dtype)
            filled = 0
            while filled < len(records):
                offset, size = waiting.pop()
                taken = min(size, len(records) - filled)
                self._fill(records[filled : filled + taken], offset)
                if taken < size:
                    waiting.append((offset + taken * self.dtype.itemsize, size - taken))
                filled += taken
            left -= len(records)
            yield records

    def _fill(self, records: NDArray[Any], offset: int) -> None:
        target = records.view(np.uint8)
        while len(target):
            count = os.preadv(self._file.fileno(), [target.data], offset)
            if not count:
                raise OSError("a temporary file was cut short while it was in use")
            target, offset = target[count:], offset + count
