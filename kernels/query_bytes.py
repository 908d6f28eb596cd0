"""A float query as signed bytes, for codecs whose inner products are sums of integers.

q is read back as t k with k int8 and t = max |q| / 127, so each coordinate is off by at most t / 2. Estimates use
the norm of the vector as read back: they are the distances of *that* vector, whose error is the same for all rows but
for the part along the row.
"""

import numpy as np

from nearhash.kernels.jit import jit_inline
from nearhash.kernels.scan import L2

# Constants of a prepared query: with a row x = centre + x' and the query q' = q - centre (L2) or q (DOT), read back
# as t k, its distance is BIAS + NORM_WEIGHT |x'|^2 + PRODUCT_WEIGHT <t k, x'>, at least LEAST. SUM is t sum(k), SCALE
# is t.
SUM, SCALE, BIAS, NORM_WEIGHT, PRODUCT_WEIGHT, LEAST = range(6)
_MOST = np.float32(127.0)


@jit_inline
def quantise_query(vector, centre, dim, metric, out, constants):
    """Write k to out (dim,) int8 and the constants; vector and centre (dim,) float32, all as pointers."""
    euclidean = metric == L2
    largest, along = np.float32(0.0), 0.0
    for i in range(dim):
        largest = max(largest, abs(vector[i] - centre[i] if euclidean else vector[i]))
    for i in range(0 if euclidean else dim):
        along += np.float64(vector[i]) * np.float64(centre[i])
    quantise(vector, centre, dim, euclidean, largest, out, constants)
    set_weights(metric, np.float32(along), constants)


@jit_inline
def quantise(vector, centre, dim, less_centre, largest, out, constants):
    """Round a vector, less the centre if so wanted, to int8; sets SUM, SCALE, and BIAS to its squared norm."""
    scale = largest / _MOST
    inverse = np.float32(1.0) / scale if scale > 0 else np.float32(0.0)
    # The inverse of a denormal scale overflows: such a vector is zero for all purposes.
    if not np.isfinite(inverse):
        scale, inverse = np.float32(0.0), np.float32(0.0)
    total, squares = 0, 0
    for i in range(dim):
        value = vector[i] - centre[i] if less_centre else vector[i]
        code = np.int64(np.floor(value * inverse + np.float32(0.5)))
        out[i] = np.int8(code)
        total += code
        squares += code * code
    constants[SUM] = scale * np.float32(total)
    constants[SCALE] = scale
    constants[BIAS] = scale * scale * np.float32(squares)


@jit_inline
def set_weights(metric, along, constants):
    """Set the weights; BIAS holds |t k|^2 and becomes what the distance starts from, `along` is <q, centre>."""
    if metric == L2:
        constants[NORM_WEIGHT] = np.float32(1.0)
        constants[PRODUCT_WEIGHT] = np.float32(-2.0)
        constants[LEAST] = np.float32(0.0)
    else:
        constants[BIAS] = -along
        constants[NORM_WEIGHT] = np.float32(0.0)
        constants[PRODUCT_WEIGHT] = np.float32(-1.0)
        constants[LEAST] = np.float32(-np.inf)
