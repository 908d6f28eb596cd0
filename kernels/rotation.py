"""Random rotations in d log d steps: random signs and Hadamard transforms in turn.

Multiplying by H D4 H D3 H D2 H D1, with H the normalised Hadamard matrix and D diagonal matrices of random signs, is
close to multiplying by a random orthogonal matrix (Ailon & Chazelle, SIAM J. Computing 2009; Andoni et al., NeurIPS
2015). H needs a power of two: for other widths the transform works on the first and on the last 2^b elements in turn,
the largest power of two that fits, and after each a step of Kac's walk mixes the two halves of the vector: (x, y) -> (x
+ y, x - y) / sqrt(2).
"""

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.jit import jit, jit_inline

ROUNDS = 4
MULTIPLE = 64  # widths are multiples of it, so that sign bits fill words


def rotation_width(dim: int) -> int:
    """Elements of a rotated vector: `dim` rounded up to a multiple of 64."""
    return -(-dim // MULTIPLE) * MULTIPLE


@jit_inline
def _hadamard(values, size):
    """Multiply by the Hadamard matrix of +-1, in place; `size` is a power of two, at least 64."""
    scale = np.float32(1.0) / np.sqrt(np.float32(size))
    for first in range(0, size, 8):  # the three innermost rounds at once, in registers
        x = simd.offset(values, first)
        a0, a1, a2, a3 = x[0] + x[1], x[0] - x[1], x[2] + x[3], x[2] - x[3]
        a4, a5, a6, a7 = x[4] + x[5], x[4] - x[5], x[6] + x[7], x[6] - x[7]
        b0, b1, b2, b3 = a0 + a2, a1 + a3, a0 - a2, a1 - a3
        b4, b5, b6, b7 = a4 + a6, a5 + a7, a4 - a6, a5 - a7
        x[0], x[1], x[2], x[3] = (b0 + b4) * scale, (b1 + b5) * scale, (b2 + b6) * scale, (b3 + b7) * scale
        x[4], x[5], x[6], x[7] = (b0 - b4) * scale, (b1 - b5) * scale, (b2 - b6) * scale, (b3 - b7) * scale
    half = 8
    while half < size:
        for first in range(0, size, 2 * half):
            x = simd.offset(values, first)
            y = simd.offset(values, first + half)
            for i in range(half):
                left, right = x[i], y[i]
                x[i], y[i] = left + right, left - right
        half *= 2


@jit_inline
def _mix(values, width):
    """(x, y) -> (x + y, x - y) / sqrt(2) for the two halves; its own inverse."""
    half, scale = width >> 1, np.float32(np.sqrt(0.5))
    y = simd.offset(values, half)
    for i in range(half):
        left, right = values[i], y[i]
        values[i], y[i] = (left + right) * scale, (left - right) * scale


@jit_inline
def _power(width):
    """The largest power of two up to `width`."""
    size = 64
    while 2 * size <= width:
        size *= 2
    return size


@jit_inline
def rotate(values, signs, width):
    """Rotate `width` float32 in place; signs (ROUNDS, width) float32, +-1; all as pointers."""
    size = _power(width)
    for turn in range(ROUNDS):
        line = simd.offset(signs, turn * width)
        for i in range(width):
            values[i] *= line[i]
        _hadamard(simd.offset(values, (width - size) * (turn & 1)), size)
        if size < width:
            _mix(values, width)


@jit_inline
def rotate_back(values, signs, width):
    """Inverse of `rotate`: each of its steps is its own inverse."""
    size = _power(width)
    for step in range(ROUNDS):
        turn = ROUNDS - 1 - step
        if size < width:
            _mix(values, width)
        _hadamard(simd.offset(values, (width - size) * (turn & 1)), size)
        line = simd.offset(signs, turn * width)
        for i in range(width):
            values[i] *= line[i]


@jit
def rotate_rows(vectors, signs, out):
    """Rotations (n, width) of vectors (n, dim), zeros appended; signs (ROUNDS, width); all float32."""
    dim, width = vectors.shape[1], out.shape[1]
    for row in range(vectors.shape[0]):
        for i in range(width):
            out[row, i] = vectors[row, i] if i < dim else np.float32(0.0)
        rotate(simd.pointer(out, row * width), simd.pointer(signs, 0), width)


@jit
def rotate_rows_back(rotated, signs):
    """Undo `rotate_rows` in place."""
    width = rotated.shape[1]
    for row in range(rotated.shape[0]):
        rotate_back(simd.pointer(rotated, row * width), simd.pointer(signs, 0), width)
