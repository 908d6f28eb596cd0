"""How many values of two sketches agree."""

import numpy as np

from nearhash.kernels.jit import jit
from nearhash.kernels.simd import pointer, prefetch

_AHEAD = 4  # pairs


@jit
def count_agreements(left, left_rows, right, right_rows, fields, out):
    """Agreeing values of pairs of sketches.

    left (n, w), right (m, w), both uint8, uint16 or uint32; left_rows and right_rows (p,) int64: the pairs; out (p,)
    int32. fields (256,) uint8: where values of fewer than 8 bits are packed into bytes, how many of those in a byte
    are 0; else empty.
    """
    width, pairs = left.shape[1], out.shape[0]
    packed = fields.shape[0] > 0
    table = pointer(fields, 0)
    for pair in range(pairs):
        if pair + _AHEAD < pairs:
            prefetch(pointer(right, right_rows[pair + _AHEAD] * width))
        x, y = pointer(left, left_rows[pair] * width), pointer(right, right_rows[pair] * width)
        total = np.int32(0)
        if packed:
            for i in range(width):
                total += np.int32(table[np.int64(x[i] ^ y[i])])
        else:
            for i in range(width):
                total += np.int32(x[i] == y[i])
        out[pair] = total
