"""RaBitQ: codes of 1 to 8 bits a dimension with an unbiased estimate of inner products and a bound of its error.

Gao & Long, "RaBitQ: quantizing high-dimensional vectors with a theoretical error bound for approximate nearest neighbor
search" (SIGMOD 2024); Gao et al., "Practical and asymptotically optimal quantization of high-dimensional vectors in
Euclidean space for approximate nearest neighbor search" (SIGMOD 2025) for more than one bit. With c a centre and P a
random rotation into D dimensions, r = P (o - c) is replaced by a code u in {0 .. 2^B - 1}^D that stands for the
direction of y = u - (2^B - 1) / 2. The code is chosen to maximise cos = <y, r> / (|y| |r|). Then, with q rotated too,

    <r, q>  is estimated by  f <y, q>,  f = |r|^2 / <y, r>,

which is unbiased over the rotations, with an error that exceeds EPSILON |r| |q| sqrt((1 / cos^2 - 1) / (D - 1)) hardly
ever (2024, theorem 3.2): the error is |r| |q| tan(r, y) times a coordinate of a random unit vector in D - 1 dimensions,
nearly normal with variance 1 / (D - 1), so |error| stays within 1.9 deviations in 94% of cases and a lower bound fails
in 3%.

Row layout: four float32 - |r|^2, f, the bound of the error for |q| = 1, cos^2 - then B bit planes of D / 64
little-endian uint64, the most significant first, and if there is an extra coordinate, a float32 with it and zeros up to
eight bytes.
"""

from typing import NamedTuple

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.lvq import NOISE
from nearhash.kernels.query_bytes import (
    BIAS,
    LEAST,
    NORM_WEIGHT,
    PRODUCT_WEIGHT,
    SCALE,
    SUM,
    quantise,
    set_weights,
)
from nearhash.kernels.rotation import rotate, rotation_width
from nearhash.kernels.scan import L2
from nearhash.kernels.simd_codes import as_floats, as_signed, dot_planes

HEADER = 16  # bytes before the codes
SQUARE, RESCALE, ERROR, COSINE2 = range(4)
LENGTH, ROUNDING = 6, 7  # constants of a query beside those of query_bytes: |q| and |q - t k|
EPSILON = np.float32(1.9)
MOST_BITS = 8
FEWEST_BITS = 1
# Scales that codes of several bits are tried at, see `encode_one`, and passes of coordinate descent from the best of
# them; tests hold the result against the true optimum.
_COARSE, _FINE = 8, 16
_PASSES = 6


class RaBitQ(NamedTuple):
    """Scheme of RaBitQ rows, see kernels/codes.py; rotated: D; extra_at: byte of the extra coordinate, or 0."""

    dim: int
    width: int
    query_bytes: int
    rotated: int
    bits: int
    extra_at: int


def rabitq_scheme(dim: int, bits: int, has_extra: bool) -> RaBitQ:
    rotated = rotation_width(dim)
    end = HEADER + bits * rotated // 8
    return RaBitQ(dim, end + 8 * has_extra, 5 * rotated, rotated, bits, end if has_extra else 0)


@jit_inline
def _level(value, scale, most):
    """Level of a coordinate's magnitude, at most `most`; level m stands for m + 1/2."""
    return np.int32(min(abs(value) * scale, most))


@jit_inline
def encode_one(residual, width, bits, codes):
    """Codes of a rotated residual, pointers to `width` float32 and uint8; returns (<y, r>, |y|^2).

    The levels that maximise cos are those of ``floor(t |r|)`` for some scale t. Tried are scales around the one that is
    best for many normal coordinates, which clips the largest, and, where there are so many bits that clipping costs
    more than it gains, scales at which the largest coordinate just takes the last level; then single levels are raised
    and lowered as long as that helps.
    """
    most, half = np.float32((1 << (bits - 1)) - 1), 1 << (bits - 1)
    squares, largest = 0.0, np.float32(0.0)
    for i in range(width):
        squares += np.float64(residual[i]) ** 2
        largest = max(largest, abs(residual[i]))
    deviation = np.float32(np.sqrt(squares / width))
    chosen = np.float32(0.0)
    if bits > 1 and deviation > 0 and np.isfinite(np.float32(1.0) / deviation):
        best = -1.0
        # The best uniform quantiser of a normal variable (Max, IRE Trans. IT 1960) ends at 1.99 deviations for 2 bits,
        # at 3.94 for 8, and almost on a line between.
        usual = np.float32(half) / (np.float32(1.33) + np.float32(0.327) * np.float32(bits)) / deviation
        for step in range(_COARSE + _FINE):
            if step < _COARSE:
                scale = usual * np.float32(0.7 + 0.08 * step)
            else:
                scale = np.float32(half) / largest * np.float32(0.86 + 0.012 * (step - _COARSE))
            along, length = 0.0, 0.0
            for i in range(width):
                level = np.float32(_level(residual[i], scale, most)) + np.float32(0.5)
                along += np.float64(level * abs(residual[i]))
                length += np.float64(level * level)
            if along * along > best * length:
                best, chosen = along * along / length, scale
    along, length = 0.0, 0.0
    for i in range(width):
        level = _level(residual[i], chosen, most)
        codes[i] = np.uint8(half + level) if residual[i] >= 0 else np.uint8(half - 1 - level)
        along += (level + 0.5) * np.float64(abs(residual[i]))
        length += (level + 0.5) ** 2
    if bits == 1:
        return along, length
    for _ in range(_PASSES):
        changed = False
        for i in range(width):
            up = residual[i] >= 0
            level, size = np.int64(codes[i]), np.float64(abs(residual[i]))
            level = level - half if up else half - 1 - level
            # Raised, |y|^2 grows by 2 level + 2; lowered, it shrinks by 2 level.
            move = 0
            if level < most and (along + size) ** 2 * length > along * along * (length + 2 * level + 2):
                move = 1
            elif level > 0 and (along - size) ** 2 * length > along * along * (length - 2 * level):
                move = -1
            if move != 0:
                length += 2 * level + 2 if move > 0 else -2 * level
                along += move * size
                codes[i] = np.uint8(np.int64(codes[i]) + (move if up else -move))
                changed = True
        if not changed:
            break
    return along, length


@jit_inline
def _error(square, cosine2, width):
    """Bound of the error of <r, q> for |q| = 1."""
    return EPSILON * np.float32(np.sqrt(max(square * (1.0 / cosine2 - 1.0), 0.0) / (width - 1)))


@jit
def encode(vectors, mean, signs, bits, extra, extra_at, rows):
    """Encode vectors (n, dim), with extra coordinates (n,) and signs (ROUNDS, D), all float32, into rows (n, bytes)."""
    count, dim = vectors.shape
    width = signs.shape[1]
    residual, codes = np.empty(width, np.float32), np.empty(width, np.uint8)
    for i in range(count):
        for j in range(width):
            residual[j] = vectors[i, j] - mean[j] if j < dim else np.float32(0.0)
        square = 0.0
        for j in range(dim):
            square += np.float64(residual[j]) ** 2
        rotate(simd.pointer(residual, 0), simd.pointer(signs, 0), width)
        along, length = encode_one(simd.pointer(residual, 0), width, bits, simd.pointer(codes, 0))
        for j in range(rows.shape[1]):
            rows[i, j] = 0
        for j in range(width):
            for plane in range(bits):
                bit = (codes[j] >> np.uint8(bits - 1 - plane)) & np.uint8(1)
                rows[i, HEADER + (plane * width + j) // 8] |= bit << np.uint8(j & 7)
        header = as_floats(simd.pointer(rows, i * rows.shape[1]))
        if along > 0:
            cosine2 = min(along * along / (length * square), 1.0) if square > 0 else 1.0
            header[SQUARE] = np.float32(square)
            header[RESCALE] = np.float32(square / along)
            header[COSINE2] = np.float32(cosine2)
            header[ERROR] = _error(square, cosine2, width)
        else:
            header[COSINE2] = np.float32(1.0)
        if extra_at > 0:
            as_floats(simd.pointer(rows, i * rows.shape[1] + extra_at))[0] = extra[i]


@jit
def encode_parts(residuals, centres, numbers, metric, bits, codes, factors):
    """Codes and factors of residuals from several centres, for scans that look up or count bits themselves.

    residuals (n, D) and centres (c, D), both rotated, float32; numbers (n,) int32, the centre of each residual; codes
    (n, D) uint8 and factors (3, n) float32 (add, rescale, error), results. With q the rotated query, the distance (L2
    or DOT) is estimated by

        base + add + rescale (<u, q> - (2^B - 1) / 2 sum(q)),  base = |q - c|^2 (L2) or -<q, c> (DOT),

    and off by at most error |q - c|, see the module.
    """
    count, width = residuals.shape
    shift = 0.5 * ((1 << bits) - 1)
    for i in range(count):
        square, towards, across = 0.0, 0.0, 0.0
        along, _ = encode_one(simd.pointer(residuals, i * width), width, bits, simd.pointer(codes, i * width))
        length = 0.0
        for j in range(width):
            value, centre = np.float64(residuals[i, j]), np.float64(centres[numbers[i], j])
            y = np.float64(codes[i, j]) - shift
            square += value * value
            towards += value * centre
            across += y * centre
            length += y * y
        f, cosine2 = 0.0, 1.0
        if along > 0:
            f, cosine2 = square / along, min(along * along / (length * square), 1.0)
        error = _error(square, cosine2, width)
        if metric == L2:
            factors[0, i] = square + 2.0 * f * across
            factors[1, i] = -2.0 * f
            factors[2, i] = np.float32(2.0) * error
        else:
            factors[0, i] = f * across - towards
            factors[1, i] = -f
            factors[2, i] = error


@jit_inline
def prepare(scheme, parameters, rows, slot, buffer, constants):
    """Make the vector of a row the query: k = u - 2^(B - 1) as int8, so that y = k + 1/2; and ones."""
    row, query = simd.offset(rows, slot * scheme.width), as_signed(buffer)
    header, width = as_floats(row), scheme.rotated
    half, total = 1 << (scheme.bits - 1), 0
    for i in range(width):
        code = 0
        for plane in range(scheme.bits):
            byte = row[HEADER + (plane * width + i) // 8]
            code = 2 * code + np.int64((byte >> np.uint8(i & 7)) & np.uint8(1))
        query[i] = np.int8(code - half)
        query[width + i] = 1
        total += code
    # <y, y'> = <u', k> + sum(u') / 2 - (2^B - 1) / 2 (sum(k) + D / 2)
    shift = np.float32(0.5) * np.float32((1 << scheme.bits) - 1)
    constants[0] = shift * (np.float32(total - half * width) + np.float32(0.5) * np.float32(width))
    constants[1] = header[COSINE2] * header[RESCALE]
    constants[2] = header[COSINE2] * header[SQUARE]
    constants[3] = _extra(scheme, row)


@jit_inline
def _extra(scheme, row):
    return as_floats(simd.offset(row, scheme.extra_at))[0] if scheme.extra_at > 0 else np.float32(0.0)


@jit_inline
def distance(scheme, buffer, constants, rows, slot):
    """Squared Euclidean distance of a prepared row and another, both as read back: cos^2 f y, the shortest error."""
    row, query = simd.offset(rows, slot * scheme.width), as_signed(buffer)
    header, planes = as_floats(row), simd.offset(row, HEADER)
    words = scheme.rotated >> 6
    codes = np.float32(dot_planes(planes, query, words, scheme.bits))
    total = np.float32(dot_planes(planes, simd.offset(query, scheme.rotated), words, scheme.bits))
    product = (codes + np.float32(0.5) * total - constants[0]) * constants[1] * (header[COSINE2] * header[RESCALE])
    norms = header[COSINE2] * header[SQUARE] + constants[2]
    apart = norms - np.float32(2.0) * product
    apart = apart if apart > NOISE * norms else np.float32(0.0)
    extra = _extra(scheme, row) - constants[3]
    return apart + extra * extra


@jit_inline
def prepare_query(scheme, parameters, vector, metric, buffer, constants):
    """Make a float32 vector the query: rotated, then rounded to int8; parameters: mean (dim,), signs (ROUNDS, D)."""
    width, dim = scheme.rotated, scheme.dim
    rotated = as_floats(simd.offset(buffer, width))
    euclidean = metric == L2
    along = 0.0
    for i in range(width):
        rotated[i] = 0
    for i in range(dim):
        rotated[i] = vector[i] - parameters[i] if euclidean else vector[i]
        along += np.float64(vector[i]) * np.float64(parameters[i])
    rotate(rotated, simd.offset(parameters, dim), width)
    largest = np.float32(0.0)
    for i in range(width):
        largest = max(largest, abs(rotated[i]))
    query = as_signed(buffer)
    quantise(rotated, rotated, width, False, largest, query, constants)
    squares, rounding = np.float32(0.0), np.float32(0.0)
    for i in range(width):
        difference = rotated[i] - constants[SCALE] * np.float32(query[i])
        squares += rotated[i] * rotated[i]
        rounding += difference * difference
    constants[SUM] *= np.float32(0.5) * np.float32((1 << scheme.bits) - 1)
    constants[BIAS] = squares
    constants[LENGTH] = np.sqrt(squares)
    constants[ROUNDING] = np.sqrt(rounding)
    set_weights(metric, np.float32(along), constants)


@jit_inline
def estimate(scheme, buffer, constants, rows, slot):
    """Distance of a prepared query and a row, unbiased over the rotations (but for the limit at 0 of L2)."""
    row = simd.offset(rows, slot * scheme.width)
    header = as_floats(row)
    codes = np.float32(dot_planes(simd.offset(row, HEADER), as_signed(buffer), scheme.rotated >> 6, scheme.bits))
    product = header[RESCALE] * (constants[SCALE] * codes - constants[SUM])
    result = constants[BIAS] + constants[NORM_WEIGHT] * header[SQUARE] + constants[PRODUCT_WEIGHT] * product
    if scheme.extra_at > 0:
        extra = _extra(scheme, row)
        result += constants[NORM_WEIGHT] * (extra * extra)
    return max(result, constants[LEAST])


@jit_inline
def slack(scheme, buffer, constants, rows, slot):
    """How far the true distance may lie below the estimate: the bound of the paper, and the rounding of the query.

    The rounding error e is spread over all directions by the rotation, so <f y, e> too is nearly normal, with
    deviation |f y| |e| / sqrt(D), where |f y| = |r| / cos, and independent of the error of the code: variances add.
    """
    header = as_floats(simd.offset(rows, slot * scheme.width))
    code, rounding = header[ERROR] * constants[LENGTH], EPSILON * constants[ROUNDING]
    rounding *= rounding * (header[SQUARE] / (header[COSINE2] * np.float32(scheme.rotated)))
    return -constants[PRODUCT_WEIGHT] * np.sqrt(code * code + rounding)
