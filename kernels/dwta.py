"""Densified winner-take-all hashing (Chen & Shrivastava, UAI 2018)."""

import numpy as np

from nearhash.kernels.hashes import fmix64, reduce_range
from nearhash.kernels.jit import jit

_S32 = np.uint64(32)
EMPTY = 255  # a bin without a coordinate, and every bin of a vector without one


@jit
def hash_rows(indptr, indices, values, bins, places, key, out, row_first, row_last):
    """Rows `row_first` to `row_last` of out (n, k) uint8: per bin the place of its greatest value.

    indptr (n + 1,) int64, indices (m,) int32 and values (m,) float32: sparse rows; zeros among the values are absent.
    bins (p, d) int32, -1 for none, and places (p, d) uint8: where each permutation puts a coordinate. Of equal values
    the lower place wins. An empty bin takes the value of the first non-empty one of a sequence of random bins, which is
    the same for all vectors; only what was not empty from the start is copied (Shrivastava, ICML 2017).
    """
    k = out.shape[1]
    best, size = np.empty(k, np.float32), np.uint64(k)
    for row in range(row_first, row_last):
        filled = 0
        out[row, :] = EMPTY
        for i in range(indptr[row], indptr[row + 1]):
            value = values[i]
            if value == 0:
                continue
            for permutation in range(bins.shape[0]):
                target = bins[permutation, indices[i]]
                if target < 0:
                    continue
                place, present = places[permutation, indices[i]], out[row, target]
                if present == EMPTY or value > best[target] or (value == best[target] and place < present):
                    filled += present == EMPTY
                    best[target], out[row, target] = value, place
        if filled == 0 or filled == k:
            continue
        for target in range(k):
            best[target] = np.float32(1.0) if out[row, target] != EMPTY else np.float32(0.0)
        for target in range(k):
            if best[target] == 0:
                number = key + np.uint64(target)
                source = np.int64(reduce_range(fmix64(number) >> _S32, size))
                while best[source] == 0:
                    number += size
                    source = np.int64(reduce_range(fmix64(number) >> _S32, size))
                out[row, target] = out[row, source]
