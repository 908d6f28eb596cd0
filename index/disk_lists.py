"""The lists of a disk index: where they are in its file, and how they are read.

A list is a run of whole pages: the vectors of its entries, zeros up to the next 64 bytes, their slots as int32, zeros
up to the next page.
"""

import errno
import os
import weakref
from collections.abc import Iterator
from threading import Lock
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from nearhash.errors import ClosedError, CorruptIndexError
from nearhash.index.arrays import ALIGNMENT, aligned_empty
from nearhash.kernels.threads import run_chunks

PAGE = 4096
# Lists read before they are scanned, in bytes: enough requests to keep a disk busy, little enough to stay in the
# processor's cache until the scan.
PORTION = 1 << 24

_NOWAIT = getattr(os, "RWF_NOWAIT", None)


def page_start(position: int) -> int:
    """The first multiple of a page from `position` on."""
    return -(-position // PAGE) * PAGE


class Layout:
    """Where in a run of pages each list is.

    Parameters
    ----------
    counts : (c,) int64
        Entries of each list.
    row_bytes : int
        Bytes of a vector.

    Attributes
    ----------
    starts, nbytes : (c,) int64
        First byte of each list, and its size; whole pages.
    slots_at : (c,) int64
        Where in the list the slots begin.
    """

    def __init__(self, counts: NDArray[np.int64], row_bytes: int) -> None:
        self.counts = counts
        self.row_bytes = row_bytes
        self.slots_at = -(-counts * row_bytes // ALIGNMENT) * ALIGNMENT
        self.nbytes = -(-(self.slots_at + 4 * counts) // PAGE) * PAGE
        self.starts = np.cumsum(self.nbytes) - self.nbytes

    @property
    def total(self) -> int:
        return int(self.nbytes.sum())

    def fill(self, number: int, rows: NDArray[Any], slots: NDArray[np.int32], page: NDArray[np.uint8]) -> None:
        """Write a list to its bytes, which are zero."""
        page[: rows.nbytes] = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        place = self.slots_at[number]
        page[place : place + 4 * len(slots)] = slots.astype("<i4").view(np.uint8)


class Traffic(NamedTuple):
    """What was read of the lists so far: how many of them, and their bytes (from the disk or the page cache)."""

    reads: int
    nbytes: int


class ListFile:
    """The lists in their file, read with ``preadv``.

    All lists that a search wants are asked for at once. A first read of each takes what the page cache holds and never
    waits (``RWF_NOWAIT``); the others are announced to the kernel together (``posix_fadvise``), which has the disk
    fetch them side by side, and are then read one after the other. That needs no threads, and no time where everything
    is in the cache.

    Parameters
    ----------
    descriptor : int
        Of the open file; closed with this object.
    start : int
        Where in the file the pages begin.
    layout : Layout
    checksums : (c,) uint32, optional
        CRC32C of each list, compared at every read.
    """

    def __init__(
        self, descriptor: int, start: int, layout: Layout, checksums: NDArray[np.uint32] | None = None
    ) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # what is needed is announced below
        self.layout = layout
        self._descriptor = descriptor
        self._finalizer = weakref.finalize(self, os.close, descriptor)
        self._start = start
        self._checksums = checksums
        self._waits = _NOWAIT is None
        self._reads = self._nbytes = 0
        self._counting = Lock()
        self._spare: list[NDArray[np.uint8]] = []

    def close(self) -> None:
        self._finalizer()

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    @property
    def traffic(self) -> Traffic:
        with self._counting:
            return Traffic(self._reads, self._nbytes)

    def portions(self, numbers: NDArray[np.int64]) -> Iterator[slice]:
        """Cut ascending numbers of lists into runs that are read at once."""
        first, size = 0, 0
        for i, nbytes in enumerate(self.layout.nbytes[numbers].tolist()):
            if i > first and size + nbytes > PORTION:
                yield slice(first, i)
                first, size = i, 0
            size += nbytes
        if first < len(numbers):
            yield slice(first, len(numbers))

    def take_buffer(self, nbytes: int) -> NDArray[np.uint8]:
        """A buffer of at least so many bytes, aligned to a cache line; to be given back."""
        try:
            buffer = self._spare.pop()
            if len(buffer) >= nbytes:
                return buffer
        except IndexError:
            pass
        return aligned_empty((max(nbytes, PORTION),), np.uint8)

    def give_back(self, buffer: NDArray[np.uint8]) -> None:
        if len(buffer) == PORTION:
            self._spare.append(buffer)

    def read(
        self, numbers: NDArray[np.int64], buffer: NDArray[np.uint8], threads: int, ahead: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Read lists into a buffer, one behind the other, and return where each begins.

        If the disk was needed, the lists in `ahead` are announced as well: they come while these are scanned.

        Raises
        ------
        CorruptIndexError
            If the checksum of a list does not match; it names the list.
        OSError
            If the file cannot be read.
        """
        if self.closed:
            raise ClosedError("the index is closed")
        nbytes = self.layout.nbytes[numbers]
        begins: NDArray[np.int64] = np.cumsum(nbytes) - nbytes
        targets = [
            (number, buffer[begin : begin + size])
            for number, begin, size in zip(numbers.tolist(), begins.tolist(), nbytes.tolist(), strict=True)
        ]
        missing: list[tuple[int, NDArray[np.uint8]]] = []

        def from_cache(first: int, last: int) -> None:
            for number, target in targets[first:last]:
                if self._read_cached(number, target):
                    self._check(number, target)
                else:
                    missing.append((number, target))

        def from_disk(first: int, last: int) -> None:
            for number, target in missing[first:last]:
                self._read_waiting(number, target)
                self._check(number, target)

        run_chunks(from_cache, len(targets), threads, 16)
        if missing:
            missing.sort(key=lambda item: item[0])
            self._announce([number for number, _ in missing])
            run_chunks(from_disk, len(missing), threads, 16)
            self._announce(ahead.tolist())
        with self._counting:
            self._reads += len(numbers)
            self._nbytes += int(nbytes.sum())
        return begins

    def _read_cached(self, number: int, target: NDArray[np.uint8]) -> bool:
        """Whether the page cache had all of a list."""
        if self._waits or _NOWAIT is None:
            return False
        try:
            return os.preadv(self._descriptor, [target.data], self._position(number), _NOWAIT) == len(target)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            self._waits = True  # a file system that cannot say
            return False

    def _read_waiting(self, number: int, target: NDArray[np.uint8]) -> None:
        position = self._position(number)
        while len(target):
            count = os.preadv(self._descriptor, [target.data], position)
            if not count:
                raise CorruptIndexError(f"list {number}: the file shrank after it was opened")
            target, position = target[count:], position + count

    def _announce(self, numbers: list[int]) -> None:
        if hasattr(os, "posix_fadvise"):
            for number in numbers:
                size = int(self.layout.nbytes[number])
                os.posix_fadvise(self._descriptor, self._position(number), size, os.POSIX_FADV_WILLNEED)

    def _position(self, number: int) -> int:
        return self._start + int(self.layout.starts[number])

    def _check(self, number: int, target: NDArray[np.uint8]) -> None:
        if self._checksums is None:
            return
        checksum = google_crc32c.extend(0, target)
        if checksum != self._checksums[number]:
            raise CorruptIndexError(
                f"list {number}: checksum {checksum:08x}, expected {int(self._checksums[number]):08x}"
            )
