"""Signs of random projections: by three rounds of random signs and Hadamard transform, or by a Gaussian matrix."""

import numpy as np

from nearhash.kernels import simd
from nearhash.kernels.hadamard import signed_hadamard
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.panels import products
from nearhash.kernels.simd_hadamard import sign_mask

ROUNDS = 3
_LANES = simd.LANES
_BYTE, _S8 = np.uint64(255), np.uint64(8)


@jit_inline
def _store_signs(values, bits, code):
    """Write the signs of `bits` floats, a multiple of 8, to the pointer `code`; up to 15 floats beyond are read."""
    for i in range(0, bits, _LANES):
        mask, byte = sign_mask(simd.offset(values, i)), i >> 3
        code[byte] = np.uint8(mask & _BYTE)
        if bits - i > 8:
            code[byte + 1] = np.uint8(mask >> _S8)


@jit
def encode_hadamard(vectors, signs, bits, out):
    """Codes (n, bits // 8) uint8 of vectors (n, dim) float32.

    signs (blocks, ROUNDS, size) float32, +-1; size, a power of two, is at least `dim` and 16. Block b gives the bits
    from b * size on: the first of the signs of H D3 H D2 H D1 x, zeros appended to x.
    """
    dim, (blocks, _, size) = vectors.shape[1], signs.shape
    padded, work = np.zeros(size, np.float32), np.empty(size, np.float32)
    for row in range(vectors.shape[0]):
        x, y = simd.pointer(padded, 0), simd.pointer(work, 0)
        vector, code = simd.pointer(vectors, row * dim), simd.pointer(out, row * out.shape[1])
        for i in range(dim):
            x[i] = vector[i]
        for block in range(blocks):
            line = simd.pointer(signs, block * ROUNDS * size)
            signed_hadamard(x, line, y, size)
            for turn in range(1, ROUNDS):
                signed_hadamard(y, simd.offset(line, turn * size), y, size)
            first = block * size
            _store_signs(y, min(size, bits - first), simd.offset(code, first >> 3))


@jit
def encode_product(vectors, panels, bits, out):
    """Codes (n, bits // 8) uint8 of vectors (n, dim) float32: signs of the products with the rows of panels."""
    count, dim = vectors.shape
    group, width = 48, panels.shape[0] * panels.shape[2]
    scores = np.empty((group, width), np.float32)
    for first in range(0, count, group):
        present = min(group, count - first)
        products(
            simd.pointer(vectors, first * dim), present, dim, simd.pointer(panels, 0), panels.shape[0],
            simd.pointer(scores, 0), width,
        )  # fmt: skip
        for i in range(present):
            _store_signs(simd.pointer(scores, i * width), bits, simd.pointer(out, (first + i) * out.shape[1]))
