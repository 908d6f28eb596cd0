"""LVQ-8: one byte per dimension, with the range of each vector of its own.

Locally-adaptive vector quantisation (Aguerrebere et al., "Similarity search in the blink of an eye with compressed
indices", VLDB 2023, eq. 2): with x the vector minus the mean of the data, l and u its least and largest element,
step = (u - l) / 255 and code c = floor((x - l) / step + 1/2), x is read back as l + step * c.

Row layout, a multiple of 64 bytes: five float32 - lower = l, step, step * sum(c), squared norm of the vector as
read back, and an extra coordinate that is kept exactly - and then the codes, zeros after them. The extra coordinate is
the one that reduces inner product to Euclidean distance; its scale has nothing to do with the others', so
it would ruin their quantisation.
"""

import numpy as np
from numba import types
from numba.extending import intrinsic

from nearhash.kernels import simd
from nearhash.kernels.jit import jit, jit_inline

HEADER = 20  # bytes before the codes
LINE = 64
LOWER, STEP, STEP_SUM, NORM, EXTRA = range(5)
# Rounding makes the distance of a vector to itself a little more or less than zero, measured up to 1.6e-6 of the
# norms. Below this share, under the resolution of the codes anyway,
# it is zero, so that duplicates are recognised as such.
_NOISE = np.float32(4e-6)


def row_bytes(dim: int) -> int:
    """Bytes of a row of codes for vectors of `dim` dimensions."""
    return -(-(HEADER + dim) // LINE) * LINE


@intrinsic
def _floats(typing_context, address):
    """The same address, as a pointer to float32."""
    signature = types.CPointer(types.float32)(address)

    def codegen(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], simd.F32.as_pointer())

    return signature, codegen


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
        header = _floats(simd.pointer(rows, i * rows.shape[1]))
        wide_lower, wide_step = np.float64(lower), np.float64(step)
        norm = dim * wide_lower**2 + 2.0 * wide_lower * wide_step * total + wide_step**2 * squares
        header[LOWER] = lower
        header[STEP] = step
        header[STEP_SUM] = np.float32(wide_step * total)
        header[NORM] = np.float32(norm + np.float64(extra[i]) ** 2)
        header[EXTRA] = extra[i]


@jit_inline
def prepare(rows, width, dim, slot, buffer, constants):
    """Make the vector in `slot` the query: its codes less 128 as int8, zero where rows hold their headers.

    With x = l + s c and q = l' + s' c': <q, x> = l * sum(q) + (l' + 128 s') * s sum(c) + s' * s * <c' - 128, c>.
    What the buffer holds beyond the codes does not matter: there the codes of every row are zero.
    """
    row = simd.offset(rows, slot * width)
    header = _floats(row)
    for i in range(width):
        buffer[i] = np.int8(row[i] ^ np.uint8(0x80))
    for i in range(HEADER):
        buffer[i] = 0
    constants[0] = header[LOWER] * np.float32(dim) + header[STEP_SUM]
    constants[1] = header[LOWER] + np.float32(128.0) * header[STEP]
    constants[2] = header[STEP]
    constants[3] = header[NORM]
    constants[4] = header[EXTRA]


@jit_inline
def distance(buffer, constants, rows, width, slot):
    """Squared Euclidean distance of a prepared query and a row, float32 >= 0."""
    row = simd.offset(rows, slot * width)
    header = _floats(row)
    codes = np.float32(simd.dot_codes(row, buffer, width))
    product = header[LOWER] * constants[0] + header[STEP_SUM] * constants[1] + (constants[2] * codes) * header[STEP]
    product += header[EXTRA] * constants[4]
    norms = header[NORM] + constants[3]
    result = norms - np.float32(2.0) * product
    return result if result > _NOISE * norms else np.float32(0.0)
