"""The hash tables of an LSH index: how many buckets, what is in them, and what a file holds of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearhash.errors import CorruptIndexError
from nearhash.index.arguments import for_kernels
from nearhash.index.storage import take_tensor
from nearhash.kernels.lsh_tables import merge_table
from nearhash.kernels.threads import run_chunks

_LEAST_BITS = 8


class Tables:
    """Buckets as ranges of one array of slots for each table, see kernels/lsh_tables.py.

    Parameters
    ----------
    tables : int
    keys : int
        Different keys of a table. Fewer than two for each vector are buckets themselves, more are hashed.
    """

    def __init__(self, tables: int, keys: int) -> None:
        self.tables, self.keys = tables, keys
        self.shift = 0
        self.starts: NDArray[np.int32] = np.zeros((tables, 1), np.int32)
        self.entries: NDArray[np.int32] = np.empty((tables, 0), np.int32)

    @property
    def built(self) -> int:
        """Slots that are in the tables: all below this number."""
        return int(self.entries.shape[1])

    @property
    def nbytes(self) -> int:
        return int(self.starts.nbytes + self.entries.nbytes)

    def layout(self, slots: int) -> tuple[int, int]:
        """Buckets of a table and shift of the hash (0: keys are buckets) for so many vectors."""
        bits = max(_LEAST_BITS, (2 * slots - 1).bit_length())
        return (self.keys, 0) if self.keys <= 1 << bits else (1 << bits, 64 - bits)

    def fits(self, slots: int) -> bool:
        """Whether `with_slots` can take new vectors beside those that are there."""
        buckets, shift = self.layout(slots)
        return self.built > 0 and self.starts.shape[1] == buckets + 1 and self.shift == shift

    def with_slots(self, keys: NDArray[np.uint64], threads: int) -> "Tables":
        """These tables and new slots of keys (n, tables); where they do not `fit`, empty tables must be asked."""
        slots = self.built + len(keys)
        grown = Tables(self.tables, self.keys)
        buckets, grown.shift = self.layout(slots)
        starts = self.starts if self.built else np.zeros((self.tables, buckets + 1), np.int32)
        grown.starts = np.empty((self.tables, buckets + 1), np.int32)
        grown.entries = np.empty((self.tables, slots), np.int32)
        columns = np.ascontiguousarray(keys.T)

        def task(first: int, last: int) -> None:
            for table in range(first, last):
                merge_table(
                    starts[table], self.entries[table], columns[table], grown.shift, self.built,
                    grown.starts[table], grown.entries[table],
                )  # fmt: skip

        run_chunks(task, self.tables, threads, 1)
        return grown

    def tensors(self) -> dict[str, NDArray[Any]]:
        return {"starts": self.starts, "entries": self.entries}

    def restore(self, tensors: dict[str, NDArray[Any]], slots: int) -> None:
        """Take the tables of a file of so many slots; raises CorruptIndexError."""
        entries = take_tensor(tensors, "entries", np.int32, (self.tables, None))
        built = entries.shape[1]
        if built > slots:
            raise CorruptIndexError(f"tensor 'entries': expected at most {slots} slots in a table, got {built}")
        buckets, self.shift = self.layout(built) if built else (0, 0)
        starts = take_tensor(tensors, "starts", np.int32, (self.tables, buckets + 1))
        if (starts[:, 0] != 0).any() or (starts[:, -1] != built).any() or (np.diff(starts, axis=1) < 0).any():
            raise CorruptIndexError(f"tensor 'starts': expected ascending positions from 0 to {built} in each table")
        if built and (entries.min() < 0 or entries.max() >= built):
            raise CorruptIndexError(f"tensor 'entries': expected slots in [0, {built})")
        self.starts, self.entries = for_kernels(starts), for_kernels(entries)
