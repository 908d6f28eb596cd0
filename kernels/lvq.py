"""LVQ-8: one byte per dimension, with the range of each vector of its own.

Locally-adaptive vector quantisation (Aguerrebere et al., "Similarity search in the blink of an eye with compressed
indices", VLDB 2023, eq. 2): with x the vector minus the mean of the data, l and u its least and largest element,
step = (u - l) / 255 and code c = floor((x - l) / step + 1/2), x is read back as l + step * c.

Row layout, a multiple of 64 bytes: five float32 - lower = l, step, step * sum(c), squared norm of the vector as
read back, and an extra coordinate that is kept exactly - and then the codes, zeros after them. The extra coordinate is
the one that reduces inner product to Euclidean distance; its scale has nothing to do with the others', so
it would ruin their quantisation.
"""

from typing import NamedTuple

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.query_bytes import BIAS, LEAST, NORM_WEIGHT, PRODUCT_WEIGHT, SCALE, SUM, quantise_query
from nearhash.kernels.simd_codes import as_floats, as_signed

HEADER = 20  # bytes before the codes
LINE = 64
LOWER, STEP, STEP_SUM, NORM, EXTRA = range(5)
# Rounding makes the distance of a vector to itself a little more or less than zero, measured up to 1.6e-6 of the
# norms. Below this share, under the resolution of the codes anyway,
# it is zero, so that duplicates are recognised as such.
NOISE = np.float32(4e-6)


def row_bytes(dim: int) -> int:
    """Bytes of a row of codes for vectors of `dim` dimensions."""
    return -(-(HEADER + dim) // LINE) * LINE


class LVQ8(NamedTuple):
    """Scheme of LVQ-8 rows, see kernels/codes.py."""

    dim: int
    width: int
    query_bytes: int


def lvq8_scheme(dim: int) -> LVQ8:
    width = row_bytes(dim)
    return LVQ8(dim, width, width)


@jit
def encode(vectors, mean, extra, rows):
    """Encode vectors (n, dim) less `mean` (dim,), with extra coordinates (n,), all float32, into rows (n, bytes)."""
    count, dim = vectors.shape
    for i in range(count):
        lower, upper = np.float32(np.inf), np.float32(-np.inf)
        for j in range(dim):
            value = vectors[i, j] - mean[j]
            lower, upper = min(lower, value), max(upper, value)
        step = (upper - lower) / np.float32(255.0)
        inverse = np.float32(1.0) / step if step > 0 else np.float32(0.0)
        total, squares = 0, 0
        for j in range(dim):
            value = vectors[i, j] - mean[j]
            code = np.int64(min(np.float32(255.0), np.floor((value - lower) * inverse + np.float32(0.5))))
            rows[i, HEADER + j] = code
            total += code
            squares += code * code
        for j in range(HEADER + dim, rows.shape[1]):
            rows[i, j] = 0
        header = as_floats(simd.pointer(rows, i * rows.shape[1]))
        wide_lower, wide_step = np.float64(lower), np.float64(step)
        norm = dim * wide_lower**2 + 2.0 * wide_lower * wide_step * total + wide_step**2 * squares
        header[LOWER] = lower
        header[STEP] = step
        header[STEP_SUM] = np.float32(wide_step * total)
        header[NORM] = np.float32(norm + np.float64(extra[i]) ** 2)
        header[EXTRA] = extra[i]


@jit_inline
def prepare(scheme, parameters, rows, slot, buffer, constants):
    """Make the vector of a row the query: its codes less 128 as int8, zero where rows hold their headers.

    With x = l + s c and q = l' + s' c': <q, x> = l * sum(q) + (l' + 128 s') * s sum(c) + s' * s * <c' - 128, c>.
    What the buffer holds beyond the codes does not matter: there the codes of every row are zero.
    """
    row, query = simd.offset(rows, slot * scheme.width), as_signed(buffer)
    header = as_floats(row)
    for i in range(scheme.width):
        query[i] = np.int8(row[i] ^ np.uint8(0x80))
    for i in range(HEADER):
        query[i] = 0
    constants[0] = header[LOWER] * np.float32(scheme.dim) + header[STEP_SUM]
    constants[1] = header[LOWER] + np.float32(128.0) * header[STEP]
    constants[2] = header[STEP]
    constants[3] = header[NORM]
    constants[4] = header[EXTRA]


@jit_inline
def distance(scheme, buffer, constants, rows, slot):
    """Squared Euclidean distance of a prepared row and another, float32 >= 0."""
    row = simd.offset(rows, slot * scheme.width)
    header = as_floats(row)
    codes = np.float32(simd.dot_codes(row, as_signed(buffer), scheme.width))
    product = header[LOWER] * constants[0] + header[STEP_SUM] * constants[1] + (constants[2] * codes) * header[STEP]
    product += header[EXTRA] * constants[4]
    norms = header[NORM] + constants[3]
    result = norms - np.float32(2.0) * product
    return result if result > NOISE * norms else np.float32(0.0)


@jit_inline
def prepare_query(scheme, parameters, vector, metric, buffer, constants):
    """Make a float32 vector the query, rounded to int8 (query_bytes.py); parameters: the mean (dim,)."""
    query = as_signed(buffer)
    for i in range(scheme.width):
        query[i] = 0
    quantise_query(vector, parameters, scheme.dim, metric, simd.offset(query, HEADER), constants)


@jit_inline
def estimate(scheme, buffer, constants, rows, slot):
    """Distance of a prepared query and a row: with q = t k, <q, x> = l * t sum(k) + s * t <k, c>."""
    row = simd.offset(rows, slot * scheme.width)
    header = as_floats(row)
    codes = np.float32(simd.dot_codes(row, as_signed(buffer), scheme.width))
    product = header[LOWER] * constants[SUM] + header[STEP] * (constants[SCALE] * codes)
    result = constants[BIAS] + constants[NORM_WEIGHT] * header[NORM] + constants[PRODUCT_WEIGHT] * product
    return max(result, constants[LEAST])
