"""LVQ-4x8: 8 more bits a dimension for what LVQ-4 leaves, to measure the candidates of a search by.

Two-level locally-adaptive quantisation (Aguerrebere et al., "Similarity search in the blink of an eye with compressed
indices", VLDB 2023, sec. 3.2): LVQ-4 (lvq4.py) reads a centred vector x back as ``lower + step c``, so that the rest
r lies within step / 2. It is coded as ``f = floor((r / step + 1/2) 255 + 1/2)``, and both levels together are read back
as ``lower - step / 2 + step / 255 (255 c + f)``: the error of a coordinate is at most step / 510, and that of evenly
spread rests ``step / 255 / sqrt(12)``, root mean square.

A row of the second level is `dim` bytes, beside the row of the first; no float32 vector is kept.
"""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.lvq4 import LOWER, STEP
from nearhash.kernels.scan import L2
from nearhash.kernels.simd import offset, pointer
from nearhash.kernels.simd_codes import as_floats
from nearhash.kernels.simd_two_level import FINE, dot_two_level, squares_two_level

_HALF, _FINE = np.float32(0.5), np.float32(FINE)


@jit
def encode(vectors, mean, header, rows, fine):
    """Write the second level (n, dim) uint8 of vectors (n, dim) float32 whose first level is rows (n, width) uint8."""
    count, dim = vectors.shape
    half = (dim + 1) // 2
    for i in range(count):
        row = pointer(rows, i * rows.shape[1])
        lower, step = as_floats(row)[LOWER], as_floats(row)[STEP]
        inverse = np.float32(1.0) / step if step > 0 else np.float32(0.0)
        for j in range(dim):
            byte = row[header + j] if j < half else row[header + j - half]
            code = np.float32(byte & np.uint8(15) if j < half else byte >> np.uint8(4))
            rest = (vectors[i, j] - mean[j] - lower) * inverse - code
            level = np.floor((rest + _HALF) * _FINE + _HALF)
            # Of a denormal step the inverse is inf, and NaN is neither: all of the row is `lower` then.
            fine[i, j] = np.uint8(level) if 0 <= level <= _FINE else np.uint8(255 if level > _FINE else 0)


@jit_inline
def distance(row, header, fine, query, dim, metric, base):
    """Distance of a query and a row of both levels, given as pointers.

    L2: squared Euclidean, the query less the mean. DOT: ``base - <q, x>``, x less the mean.
    """
    numbers, codes = as_floats(row), offset(row, header)
    first, step = numbers[LOWER] - _HALF * numbers[STEP], numbers[STEP] / _FINE
    if metric == L2:
        return squares_two_level(query, codes, fine, dim, first, step)
    return base - dot_two_level(query, codes, fine, dim, first, step)
