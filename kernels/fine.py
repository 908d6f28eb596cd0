"""What a graph measures its last candidates by: float32 vectors, or codes of two levels."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from nearhash.kernels import lvq4x8
from nearhash.kernels.jit import INLINE_OPTIONS, jit
from nearhash.kernels.pool import insert_at, make_key, unpack
from nearhash.kernels.scan import passes, row_distance
from nearhash.kernels.simd import offset, pointer, prefetch


class FloatRows(NamedTuple):
    """Vectors (n, v) float32, v >= dim."""

    rows: NDArray[np.float32]


class TwoLevelRows(NamedTuple):
    """Rows (n, width) of LVQ-4, their codes from byte `header` on, and the second level (n, dim); see lvq4x8.py."""

    rows: NDArray[np.uint8]
    fine: NDArray[np.uint8]
    header: int


FineRows = FloatRows | TwoLevelRows


def ask_for(source, slot, dim):
    """Ask for what `fine_distance` reads of a slot."""
    raise NotImplementedError("compiled by Numba")


def fine_distance(source, slot, query, dim, metric, base):
    """Distance of slot and query, a pointer: see `scan.row_distance` and `lvq4x8.distance`."""
    raise NotImplementedError("compiled by Numba")


@overload(ask_for, jit_options=INLINE_OPTIONS)
def _ask_for(source, slot, dim):

    def floats(source, slot, dim):
        start = pointer(source.rows, slot * source.rows.shape[1])
        for line in range(0, dim, 16):
            prefetch(offset(start, line))

    def two_level(source, slot, dim):
        row, rest = pointer(source.rows, slot * source.rows.shape[1]), pointer(source.fine, slot * dim)
        for line in range(0, source.rows.shape[1], 64):
            prefetch(offset(row, line))
        for line in range(0, dim, 64):
            prefetch(offset(rest, line))
        prefetch(offset(rest, dim - 1))

    return floats if source.instance_class is FloatRows else two_level


@overload(fine_distance, jit_options=INLINE_OPTIONS)
def _fine_distance(source, slot, query, dim, metric, base):

    def floats(source, slot, query, dim, metric, base):
        row = pointer(source.rows, slot * source.rows.shape[1])
        return row_distance(query, row, dim, metric, base, np.float32(1.0))

    def two_level(source, slot, query, dim, metric, base):
        row = pointer(source.rows, slot * source.rows.shape[1])
        return lvq4x8.distance(row, source.header, pointer(source.fine, slot * dim), query, dim, metric, base)

    return floats if source.instance_class is FloatRows else two_level


@jit
def scan_fine(source, queries, metric, bases, mask, labels, windows, slots, distances):
    """The nearest slots of each query among those that pass its filter: every one of them is measured.

    queries (q, dim) float32 and bases (q,), see `fine_distance`; mask, labels, windows as in `scan.passes`; slots (q,
    k) int32 and distances (q, k) float32, -1 and inf where there are fewer.
    """
    (count, dim), k = queries.shape, slots.shape[1]
    best = np.empty(k, np.uint64)
    for query in range(count):
        vector, found = pointer(queries, query * dim), 0
        for slot in range(source.rows.shape[0]):
            if not passes(query, slot, mask, labels, windows):
                continue
            key = make_key(fine_distance(source, slot, vector, dim, metric, bases[query]), slot)
            if found < k or key < best[k - 1]:
                insert_at(pointer(best, 0), found, k, key)
                found += 1 if found < k else 0
        unpack(best, found, slots[query], distances[query])
