"""Philox4x32-10: random numbers as a function of (key, counter) (Salmon et al., SC 2011).

No state: any word of any stream can be had alone, so results do not depend on the order or number of threads, and CPU
and GPU agree. Here the key is a seed of 64 bits and the counter (block, stream), 64 bits each.
"""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline

_LOW32, _S32 = np.uint64(0xFFFFFFFF), np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
ROUNDS = 10


@jit_inline
def philox(block, stream, seed):
    """Four words of 32 bits, as uint64, of a counter and a key given as three uint64."""
    c0, c1, c2, c3 = block & _LOW32, block >> _S32, stream & _LOW32, stream >> _S32
    k0, k1 = seed & _LOW32, seed >> _S32
    for _ in range(ROUNDS):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _S32) ^ c1 ^ k0, p1 & _LOW32, (p0 >> _S32) ^ c3 ^ k1, p0 & _LOW32
        k0, k1 = (k0 + _W0) & _LOW32, (k1 + _W1) & _LOW32
    return c0, c1, c2, c3


@jit
def philox_words(seed, stream, first_block, out):
    """Blocks `first_block` and following of a stream: out (blocks, 4) uint32; the rest uint64."""
    for i in range(out.shape[0]):
        a, b, c, d = philox(first_block + np.uint64(i), stream, seed)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = np.uint32(a), np.uint32(b), np.uint32(c), np.uint32(d)
