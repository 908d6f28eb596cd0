"""The Walsh-Hadamard transform of float32, not normalised, in place.

The matrix is that of Sylvester: H_1 = (1), H_2n = (H_n H_n; H_n -H_n), so element (i, j) is -1 to the number of bits
that i and j share, and H H = n I. `size` log2(size) additions in a fixed order, nothing but sums and differences:
rounds of stride 1, 2, 4, ... to size / 2, each of which turns x (lower index) and y into x + y and x - y. So the result
is the same to the last bit on every instruction set, in NumPy (`reference_dense.hadamard`) and in Torch.

Up to 256 floats stay in registers for all their rounds; above that, up to three rounds share one pass over memory.
"""

from nearhash.kernels import simd, simd_hadamard
from nearhash.kernels.jit import jit, jit_inline

LARGEST_SIZE = 32_768
_BLOCK, _LANES = simd_hadamard.BLOCK, simd.LANES


@jit_inline
def _short(values, size):
    """Transform of fewer than 16 floats."""
    stride = 1
    while stride < size:
        for i in range(size):
            if i & stride == 0:
                x, y = values[i], values[i + stride]
                values[i], values[i + stride] = x + y, x - y
        stride *= 2


@jit_inline
def _outer_rounds(values, size):
    """Rounds of the strides from _BLOCK on."""
    stride = _BLOCK
    while stride < size:
        left = size // stride  # rounds that are left: log2 of it
        if left == 2:
            for i in range(0, stride, _LANES):
                simd_hadamard.columns_2(simd.offset(values, i), stride)
            stride = size
        elif left == 4 or left == 16:  # 16 as 4 * 4: a pass of a single round costs as much as one of two
            for first in range(0, size, 4 * stride):
                for i in range(first, first + stride, _LANES):
                    simd_hadamard.columns_4(simd.offset(values, i), stride)
            stride *= 4
        else:
            for first in range(0, size, 8 * stride):
                for i in range(first, first + stride, _LANES):
                    simd_hadamard.columns_8(simd.offset(values, i), stride)
            stride *= 8


@jit_inline
def hadamard(values, size):
    """Transform `size` float32 at the pointer `values` in place; a power of two, 1 to LARGEST_SIZE."""
    if size >= _BLOCK:
        for first in range(0, size, _BLOCK):
            if _BLOCK == 256:
                simd_hadamard.block_256(simd.offset(values, first))
            else:
                simd_hadamard.block_64(simd.offset(values, first))
        _outer_rounds(values, size)
    elif size == 128:
        simd_hadamard.block_128(values)
    elif size == 64:
        simd_hadamard.block_64(values)
    elif size == 32:
        simd_hadamard.block_32(values)
    elif size == 16:
        simd_hadamard.block_16(values)
    else:
        _short(values, size)


@jit_inline
def signed_hadamard(source, signs, values, size):
    """Transform of the `size` products ``source[i] * signs[i]`` into `values`; pointers, source and values may be one.

    Saves a pass over memory: what hashing wants is always a transform after random signs.
    """
    if size >= _BLOCK:
        for first in range(0, size, _BLOCK):
            x, s, y = simd.offset(source, first), simd.offset(signs, first), simd.offset(values, first)
            if _BLOCK == 256:
                simd_hadamard.signed_block_256(x, s, y)
            else:
                simd_hadamard.signed_block_64(x, s, y)
        _outer_rounds(values, size)
    elif size == 128:
        simd_hadamard.signed_block_128(source, signs, values)
    elif size == 64:
        simd_hadamard.signed_block_64(source, signs, values)
    elif size == 32:
        simd_hadamard.signed_block_32(source, signs, values)
    elif size == 16:
        simd_hadamard.signed_block_16(source, signs, values)
    else:
        for i in range(size):
            values[i] = source[i] * signs[i]
        _short(values, size)


@jit
def hadamard_rows(rows):
    """Transform each row of rows (n, size) float32 in place."""
    size = rows.shape[1]
    for row in range(rows.shape[0]):
        hadamard(simd.pointer(rows, row * size), size)


@jit
def signed_hadamard_rows(rows, signs, out):
    """Transforms (n, size) of the rows (n, size), each multiplied by signs (size,); all float32."""
    size = rows.shape[1]
    for row in range(rows.shape[0]):
        at = row * size
        signed_hadamard(simd.pointer(rows, at), simd.pointer(signs, 0), simd.pointer(out, at), size)
