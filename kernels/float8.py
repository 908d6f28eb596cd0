"""float8: one byte a dimension with a sign, four bits of exponent and three of mantissa, and a scale for each vector.

The format is e4m3 without infinities (Micikevicius et al., "FP8 formats for deep learning", 2022): 2**-6 to 448,
beneath it multiples of 2**-9. A vector is divided by scale = max |x| / 448, so that its largest element takes the
largest value, and each element is rounded to the nearest code, ties to even: the relative error of an element is at
most 2**-4 down to 1 / 28,672 of the largest, the absolute error at most scale * 2**-10 below. A scale for each vector
costs four bytes and makes the error independent of the norms of other vectors.

Row layout, a multiple of 64 bytes: three float32 - scale, squared norm of the vector as read back (with the extra
coordinate), and the extra coordinate - and then the codes, zeros after them.
"""

from typing import NamedTuple

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.lvq import NOISE
from nearhash.kernels.query_bytes import BIAS, LEAST, NORM_WEIGHT, PRODUCT_WEIGHT, set_weights
from nearhash.kernels.simd_codes import as_floats, dot_float8

HEADER = 12  # bytes before the codes
LINE = 64
SCALE, NORM, EXTRA = range(3)
LARGEST = np.float32(448.0)
_SHRINK = np.float32(2.0**8)  # see simd_codes.dot_float8
_LEAST_NORMAL = np.float32(2.0**-6)
_LARGEST_CODE = np.uint64(0x7E)


class Float8(NamedTuple):
    """Scheme of float8 rows, see kernels/codes.py."""

    dim: int
    width: int
    query_bytes: int


def float8_scheme(dim: int) -> Float8:
    width = -(-(HEADER + dim) // LINE) * LINE
    return Float8(dim, width, 4 * width)


@jit_inline
def round_to_code(value):
    """Code of the e4m3 value nearest to a float32 of at most 448 in magnitude, ties to even."""
    bits = simd.float_bits(value)
    sign = (bits >> np.uint64(24)) & np.uint64(0x80)
    size = abs(value)
    if size < _LEAST_NORMAL:
        return np.uint8(sign | np.uint64(np.rint(size * np.float32(2.0**9))))
    # 20 of the 23 mantissa bits go; a carry runs into the exponent, whose bias goes from 127 to 7.
    bits &= np.uint64(0x7FFFFFFF)
    bits += np.uint64(0x7FFFF) + ((bits >> np.uint64(20)) & np.uint64(1))
    return np.uint8(sign | min((bits >> np.uint64(20)) - np.uint64(120 << 3), _LARGEST_CODE))


@jit_inline
def code_value(code):
    """The value of an e4m3 code other than the two NaN."""
    exponent, mantissa = np.int64(code >> np.uint8(3)) & 15, np.float32(code & np.uint8(7))
    if exponent == 0:
        size = mantissa * np.float32(2.0**-9)
    else:
        size = (np.float32(8.0) + mantissa) * simd.bits_float(np.uint64(exponent + 117) << np.uint64(23))
    return -size if code & np.uint8(0x80) else size


@jit
def encode(vectors, extra, rows):
    """Encode vectors (n, dim), with extra coordinates (n,), all float32, into rows (n, bytes)."""
    count, dim = vectors.shape
    for i in range(count):
        largest = np.float32(0.0)
        for j in range(dim):
            largest = max(largest, abs(vectors[i, j]))
        scale = largest / LARGEST
        inverse = np.float32(1.0) / scale if scale > 0 else np.float32(0.0)
        if not np.isfinite(inverse):  # so small that nothing but zero can be said of it
            scale, inverse = np.float32(0.0), np.float32(0.0)
        squares = 0.0
        for j in range(dim):
            code = round_to_code(vectors[i, j] * inverse)
            rows[i, HEADER + j] = code
            squares += np.float64(code_value(code)) ** 2
        for j in range(HEADER + dim, rows.shape[1]):
            rows[i, j] = 0
        header = as_floats(simd.pointer(rows, i * rows.shape[1]))
        header[SCALE] = scale
        header[NORM] = np.float32(np.float64(scale) ** 2 * squares + np.float64(extra[i]) ** 2)
        header[EXTRA] = extra[i]


@jit
def decode(rows, vectors):
    """Read rows (n, bytes) back into vectors (n, dim) float32."""
    for i in range(rows.shape[0]):
        scale = as_floats(simd.pointer(rows, i * rows.shape[1]))[SCALE]
        for j in range(vectors.shape[1]):
            vectors[i, j] = scale * code_value(rows[i, HEADER + j])


@jit_inline
def prepare(scheme, parameters, rows, slot, buffer, constants):
    """Make the vector of a row the query: float32, zero where rows hold their headers."""
    row, query = simd.offset(rows, slot * scheme.width), as_floats(buffer)
    header = as_floats(row)
    for i in range(scheme.width):
        query[i] = code_value(row[i]) if i >= HEADER else np.float32(0.0)
    constants[0] = header[SCALE] * _SHRINK
    constants[1] = header[NORM]
    constants[2] = header[EXTRA]


@jit_inline
def distance(scheme, buffer, constants, rows, slot):
    """Squared Euclidean distance of a prepared row and another, float32 >= 0."""
    row = simd.offset(rows, slot * scheme.width)
    header = as_floats(row)
    product = dot_float8(as_floats(buffer), row, scheme.width) * constants[0] * header[SCALE]
    product += header[EXTRA] * constants[2]
    norms = header[NORM] + constants[1]
    result = norms - np.float32(2.0) * product
    return result if result > NOISE * norms else np.float32(0.0)


@jit_inline
def prepare_query(scheme, parameters, vector, metric, buffer, constants):
    """Make a float32 vector the query."""
    query, squares = as_floats(buffer), np.float32(0.0)
    for i in range(scheme.width):
        query[i] = 0
    for i in range(scheme.dim):
        query[HEADER + i] = vector[i]
        squares += vector[i] * vector[i]
    constants[BIAS] = squares
    set_weights(metric, np.float32(0.0), constants)


@jit_inline
def estimate(scheme, buffer, constants, rows, slot):
    """Distance of a prepared query and a row."""
    row = simd.offset(rows, slot * scheme.width)
    header = as_floats(row)
    product = dot_float8(as_floats(buffer), row, scheme.width) * (header[SCALE] * _SHRINK)
    result = constants[BIAS] + constants[NORM_WEIGHT] * header[NORM] + constants[PRODUCT_WEIGHT] * product
    return max(result, constants[LEAST])
