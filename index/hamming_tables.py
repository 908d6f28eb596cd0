"""The tables of multi-index hashing: how codes are cut, whether tables pay, and searching through them."""

import math

import numpy as np
from numpy.typing import NDArray

from nearhash.index.points import Filter
from nearhash.kernels.hamming import pool_capacity
from nearhash.kernels.multi_index import (
    CANDIDATE_COST,
    MAX_SUBSTRING,
    PROBE_COST,
    ROW_COST,
    build_table,
    search_tables,
)
from nearhash.kernels.threads import run_chunks


def substrings_for(bits: int, count: int) -> int:
    """How many substrings to cut codes into: bits / log2 n, so that an entry of a table has about one row."""
    length = min(max(1.0, math.log2(max(2, count))), MAX_SUBSTRING)
    return min(bits, max(math.ceil(bits / MAX_SUBSTRING), round(bits / length)))


def scan_cost(rows: NDArray[np.uint64]) -> int:
    """What a scan of all rows costs, in the units of `kernels.multi_index`."""
    return int(rows.size) * ROW_COST


def estimated_cost(bits: int, substrings: int, count: int, distance: int) -> float:
    """Expected cost of an exact search through tables that has to reach a distance, for codes of random bits."""
    length = bits / substrings
    reached, weight, cost = 0, 0, 0.0
    while reached <= distance:
        tables = min(substrings, distance - reached + 1)
        probes = tables * math.exp(
            math.lgamma(length + 1) - math.lgamma(weight + 1) - math.lgamma(max(length - weight, 0.0) + 1)
        )
        cost += probes * (PROBE_COST + CANDIDATE_COST * count / 2**length)
        reached, weight = reached + substrings, weight + 1
        if weight > length:
            break
    return cost


class Tables:
    """A table for each substring of the first rows of an index.

    Parameters
    ----------
    rows : (n, w) uint64
    bits : int
        Bits of a code.
    substrings : int
    threads : int
    """

    def __init__(self, rows: NDArray[np.uint64], bits: int, substrings: int, threads: int) -> None:
        self.count = len(rows)
        self._cuts = np.arange(substrings + 1, dtype=np.int64) * bits // substrings
        sizes = (1 << np.diff(self._cuts)) + 1
        self._origins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._starts = np.empty(int(self._origins[-1]), np.int32)
        self._slots = np.empty((substrings, self.count), np.int32)

        def task(first: int, last: int) -> None:
            for table in range(first, last):
                build_table(
                    rows,
                    self._cuts[table],
                    self._cuts[table + 1] - self._cuts[table],
                    self._starts[self._origins[table] : self._origins[table + 1]],
                    self._slots[table],
                )

        run_chunks(task, substrings, threads, 1)

    @property
    def substrings(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        return int(self._starts.nbytes + self._slots.nbytes)

    def search(
        self,
        queries: NDArray[np.uint64],
        rows: NDArray[np.uint64],
        k: int,
        flips: int | None,
        wanted: Filter,
        threads: int,
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint8]]:
        """Pools (keys (q, capacity), sizes (q,)) over the rows in the tables, and done (q,): 0 for those to scan."""
        keys = np.empty((len(queries), pool_capacity(k)), np.uint64)
        sizes, done = np.zeros(len(queries), np.int64), np.zeros(len(queries), np.uint8)
        budget = scan_cost(rows[: self.count])

        def task(first: int, last: int) -> None:
            part = wanted.of(slice(first, last))
            seen = np.zeros(self.count // 64 + 1, np.uint64)
            search_tables(
                queries[first:last], rows, self._cuts, self._origins, self._starts, self._slots, k,
                -1 if flips is None else flips, budget, part.mask, part.labels, part.windows, seen,
                keys[first:last], sizes[first:last], done[first:last],
            )  # fmt: skip

        run_chunks(task, len(queries), threads, max(1, min(1024, -(-len(queries) // threads))))
        return keys, sizes, done
