"""What graph kernels ask of compressed vectors.

A codec gives every vector a row of `width` elements in a C-ordered array of codes; rows are a multiple of 64
bytes and start on a cache line. Kernels see pointers only and tell codecs apart by the element type, which
Numba resolves when it compiles: float32 rows are padded vectors, uint8 rows are LVQ-8 codes (lvq.py).

A vector that distances are measured from is made ready once by `prepare`: its elements go to a buffer of the
type of `query_buffer`, its numbers to CONSTANTS float32 constants. Queries of a search are encoded like
vectors, so build, pruning and search share one distance.
"""

import numpy as np
from numba import types
from numba.extending import overload

from nearhash.kernels import lvq, simd
from nearhash.kernels.jit import INLINE_OPTIONS, jit_inline

CONSTANTS = 8


def query_buffer(rows):
    """A new buffer for `prepare`, fitting an array of codes."""
    raise NotImplementedError("compiled by Numba")


def prepare(rows, width, dim, slot, buffer, constants):
    """Make the vector in `slot` ready to measure distances from; all arrays as pointers."""
    raise NotImplementedError("compiled by Numba")


def distance(buffer, constants, rows, width, slot):
    """Squared Euclidean distance (estimate) of a prepared vector and the vector in `slot`, float32 >= 0."""
    raise NotImplementedError("compiled by Numba")


@overload(query_buffer, jit_options=INLINE_OPTIONS)
def _query_buffer(rows):
    element = np.float32 if rows.dtype == types.float32 else np.int8

    def implementation(rows):
        return np.empty(rows.shape[1], element)

    return implementation


@overload(prepare, jit_options=INLINE_OPTIONS)
def _prepare(rows, width, dim, slot, buffer, constants):
    if rows.dtype == types.float32:

        def copy(rows, width, dim, slot, buffer, constants):
            start = slot * width
            for i in range(width):
                buffer[i] = rows[start + i]

        return copy

    return lambda rows, width, dim, slot, buffer, constants: lvq.prepare(rows, width, dim, slot, buffer, constants)


@overload(distance, jit_options=INLINE_OPTIONS)
def _distance(buffer, constants, rows, width, slot):
    if rows.dtype == types.float32:
        return lambda buffer, constants, rows, width, slot: simd.squared_l2(
            buffer, simd.offset(rows, slot * width), width
        )
    return lambda buffer, constants, rows, width, slot: lvq.distance(buffer, constants, rows, width, slot)


@jit_inline
def prefetch_row(rows, width, line_elements, slot):
    """Ask for all cache lines of a row; `line_elements` is 64 bytes counted in elements."""
    start = slot * width
    for line in range(0, width, line_elements):
        simd.prefetch(simd.offset(rows, start + line))
