"""Families of hash functions on integers: a full mixer, multiply-shift, tabulation.

`reference_hashes.py` says the same in NumPy and `torch_hashes.py` in Torch, bit for bit. All constants are wrapped:
Numba would make float64 of uint64 and int64 together.
"""

import numpy as np

from nearhash.kernels.jit import jit, jit_inline

_S33, _S32 = np.uint64(33), np.uint64(32)
_M1, _M2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_LOW32 = np.uint64(0xFFFFFFFF)
# Odd, close to 2^64 / golden ratio: its multiples spread evenly over 64 bits (Knuth, TAOCP 3, 6.4).
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@jit_inline
def fmix64(x):
    """MurmurHash3's finaliser (Appleby): a bijection of uint64 in which every input bit moves every output bit."""
    x ^= x >> _S33
    x *= _M1
    x ^= x >> _S33
    x *= _M2
    return x ^ (x >> _S33)


@jit_inline
def multiply_shift(x, a, b):
    """``(a x + b mod 2^64) >> 32`` of uint64 x < 2^32: 2-universal into 32 bits for random a, b (Dietzfelbinger)."""
    return (a * x + b) >> _S32


@jit_inline
def reduce_range(x, size):
    """Spread uint64 x < 2^32 over ``range(size)``: ``x * size >> 32`` (Lemire, TOMACS 2019); its high bits decide."""
    return (x * size) >> _S32


@jit
def fmix64_all(values, out):
    """`fmix64` of uint64 arrays of one length."""
    for i in range(values.shape[0]):
        out[i] = fmix64(values[i])


@jit
def multiply_shift_all(values, a, b, out):
    """`multiply_shift` of uint64 arrays of one length; values < 2^32."""
    for i in range(values.shape[0]):
        out[i] = multiply_shift(values[i] & _LOW32, a, b)


@jit
def tabulate_all(values, tables, out):
    """Simple tabulation: xor of one entry of tables (8, 256) uint64 for each byte of a uint64 (Zobrist 1970)."""
    for i in range(values.shape[0]):
        x, total = values[i], np.uint64(0)
        for byte in range(8):
            total ^= tables[byte, np.int64((x >> np.uint64(8 * byte)) & np.uint64(255))]
        out[i] = total
