"""LVQ-4: half a byte per dimension, with the range of each vector of its own; the formula is that of lvq.py.

Row layout, a multiple of 64 bytes: three or four float32 - lower, step, squared norm of the vector as read back (with
the extra coordinate), and the extra coordinate if there is one - and then the codes: byte j holds the code of dimension
j in its low half and that of dimension ``half + j``, half = ceil(dim / 2), in its high half; zeros after them.
"""

from typing import NamedTuple

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.lvq import NOISE
from nearhash.kernels.query_bytes import BIAS, LEAST, NORM_WEIGHT, PRODUCT_WEIGHT, SCALE, SUM, quantise_query
from nearhash.kernels.simd_codes import as_floats, as_signed, dot_nibbles

LINE = 64
LOWER, STEP, NORM, EXTRA = range(4)
LEVELS = np.float32(15.0)


class LVQ4(NamedTuple):
    """Scheme of LVQ-4 rows, see kernels/codes.py; header: bytes before the codes, 12 or 16."""

    dim: int
    width: int
    query_bytes: int
    header: int


def lvq4_scheme(dim: int, has_extra: bool) -> LVQ4:
    header = 16 if has_extra else 12
    width = -(-(header + (dim + 1) // 2) // LINE) * LINE
    return LVQ4(dim, width, 4 * width, header)


@jit
def encode(vectors, mean, extra, header, rows):
    """Encode vectors (n, dim) less `mean` (dim,), with extra coordinates (n,), all float32, into rows (n, bytes)."""
    count, dim = vectors.shape
    half = (dim + 1) // 2
    for i in range(count):
        lower, upper = np.float32(np.inf), np.float32(-np.inf)
        for j in range(dim):
            value = vectors[i, j] - mean[j]
            lower, upper = min(lower, value), max(upper, value)
        step = (upper - lower) / LEVELS
        inverse = np.float32(1.0) / step if step > 0 else np.float32(0.0)
        total, squares = 0, 0
        for j in range(rows.shape[1]):
            rows[i, j] = 0
        for j in range(dim):
            value = vectors[i, j] - mean[j]
            code = np.int64(min(LEVELS, np.floor((value - lower) * inverse + np.float32(0.5))))
            if j < half:
                rows[i, header + j] = code
            else:
                rows[i, header + j - half] |= code << 4
            total += code
            squares += code * code
        numbers = as_floats(simd.pointer(rows, i * rows.shape[1]))
        wide_lower, wide_step = np.float64(lower), np.float64(step)
        norm = dim * wide_lower**2 + 2.0 * wide_lower * wide_step * total + wide_step**2 * squares
        numbers[LOWER] = lower
        numbers[STEP] = step
        numbers[NORM] = np.float32(norm + np.float64(extra[i]) ** 2)
        if header > 4 * EXTRA:
            numbers[EXTRA] = extra[i]


@jit_inline
def _extra(scheme, numbers):
    return numbers[EXTRA] if scheme.header > 4 * EXTRA else np.float32(0.0)


@jit_inline
def prepare(scheme, parameters, rows, slot, buffer, constants):
    """Make the vector of a row the query: twice its codes less 15, odd int8 around the middle m of its range.

    With x = l + s c and q = m + s'/2 k: <q, x> = m (d l + s sum(c)) + s'/2 (l sum(k) + s <k, c>). The buffer holds k
    for the low halves of bytes, k for the high ones, and ones where there are codes, for sum(c).
    """
    row, query = simd.offset(rows, slot * scheme.width), as_signed(buffer)
    numbers = as_floats(row)
    half, total = (scheme.dim + 1) // 2, 0
    for i in range(3 * scheme.width):
        query[i] = 0
    for j in range(half):
        at = scheme.header + j
        low, high = np.int64(row[at] & np.uint8(15)), np.int64(row[at] >> np.uint8(4))
        query[at] = np.int8(2 * low - 15)
        total += 2 * low - 15
        if half + j < scheme.dim:
            query[scheme.width + at] = np.int8(2 * high - 15)
            total += 2 * high - 15
        query[2 * scheme.width + at] = 1
    middle, scale = numbers[LOWER] + np.float32(7.5) * numbers[STEP], np.float32(0.5) * numbers[STEP]
    constants[0] = middle * np.float32(scheme.dim) + scale * np.float32(total)
    constants[1] = middle
    constants[2] = scale
    constants[3] = numbers[NORM]
    constants[4] = _extra(scheme, numbers)


@jit_inline
def distance(scheme, buffer, constants, rows, slot):
    """Squared Euclidean distance of a prepared row and another, float32 >= 0."""
    row, query = simd.offset(rows, slot * scheme.width), as_signed(buffer)
    numbers, width = as_floats(row), scheme.width
    ones = simd.offset(query, 2 * width)
    codes = np.float32(dot_nibbles(row, query, simd.offset(query, width), width))
    total = np.float32(dot_nibbles(row, ones, ones, width))
    product = numbers[LOWER] * constants[0] + numbers[STEP] * (constants[1] * total + constants[2] * codes)
    product += _extra(scheme, numbers) * constants[4]
    norms = numbers[NORM] + constants[3]
    result = norms - np.float32(2.0) * product
    return result if result > NOISE * norms else np.float32(0.0)


@jit_inline
def prepare_query(scheme, parameters, vector, metric, buffer, constants):
    """Make a float32 vector the query, rounded to int8 (query_bytes.py); parameters: the mean (dim,)."""
    query = as_signed(buffer)
    half, last = (scheme.dim + 1) // 2, 2 * scheme.width
    for i in range(3 * scheme.width):
        query[i] = 0
    # Rounded in one piece behind the places of the halves: it may be twice as wide as a row.
    low, high = simd.offset(query, scheme.header), simd.offset(query, scheme.width + scheme.header)
    rounded = simd.offset(query, last)
    quantise_query(vector, parameters, scheme.dim, metric, rounded, constants)
    for j in range(half):
        low[j] = rounded[j]
        if half + j < scheme.dim:
            high[j] = rounded[half + j]


@jit_inline
def estimate(scheme, buffer, constants, rows, slot):
    """Distance of a prepared query and a row: with q = t k, <q, x> = l * t sum(k) + s * t <k, c>."""
    row, query = simd.offset(rows, slot * scheme.width), as_signed(buffer)
    numbers = as_floats(row)
    codes = np.float32(dot_nibbles(row, query, simd.offset(query, scheme.width), scheme.width))
    product = numbers[LOWER] * constants[SUM] + numbers[STEP] * (constants[SCALE] * codes)
    result = constants[BIAS] + constants[NORM_WEIGHT] * numbers[NORM] + constants[PRODUCT_WEIGHT] * product
    return max(result, constants[LEAST])
