"""Checks and forms of rows of float32, one call for what takes NumPy half a dozen: they stand before every search."""

import numpy as np

from nearhash.kernels.jit import jit
from nearhash.kernels.simd import pointer


@jit
def all_within(rows, limit):
    """Whether all values of rows (n, d) float32 are within +-limit (float32); NaN is not."""
    values, good = pointer(rows, 0), True
    for i in range(rows.size):
        good &= abs(values[i]) <= limit
    return good


@jit
def unit_rows(rows, units):
    """Rows (n, d) float32 divided by their norms into units (n, d) float32; zero rows stay zero.

    Squares are summed in float64, so that large or tiny values neither overflow nor vanish.
    """
    dim = rows.shape[1]
    for row in range(rows.shape[0]):
        source, target, square = pointer(rows, row * dim), pointer(units, row * dim), 0.0
        for i in range(dim):
            square += np.float64(source[i]) * np.float64(source[i])
        norm = np.float32(np.sqrt(square))
        for i in range(dim):
            target[i] = source[i] / norm if norm > 0 else np.float32(0.0)
