"""NumPy specification of `hashes.py` and `philox.py`."""

import numpy as np


def fmix64(x):
    """MurmurHash3's finaliser of uint64 arrays."""
    x = np.asarray(x, np.uint64).copy()
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x ^= x >> np.uint64(33)
        x *= np.uint64(multiplier)
    return x ^ (x >> np.uint64(33))


def multiply_shift(x, a, b):
    """``(a x + b mod 2^64) >> 32`` of uint64 x < 2^32."""
    with np.errstate(over="ignore"):
        return (np.uint64(a) * np.asarray(x, np.uint64) + np.uint64(b)) >> np.uint64(32)


def reduce_range(x, size):
    """``x * size >> 32`` of uint64 x < 2^32."""
    return (np.asarray(x, np.uint64) * np.uint64(size)) >> np.uint64(32)


def tabulate(x, tables):
    """Simple tabulation with tables (8, 256) uint64."""
    x = np.asarray(x, np.uint64)
    out = np.zeros(x.shape, np.uint64)
    for byte in range(8):
        out ^= tables[byte][(x >> np.uint64(8 * byte)) & np.uint64(255)]
    return out


def philox_words(seed, stream, first_block, blocks):
    """(blocks, 4) uint32: Philox4x32-10 with key `seed` at counters (first_block + i, stream)."""
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    block = np.uint64(first_block) + np.arange(blocks, dtype=np.uint64)
    second = np.full(blocks, stream, np.uint64)
    c = [block & low, block >> shift, second & low, second >> shift]
    k = [int(seed) & 0xFFFFFFFF, int(seed) >> 32]
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> shift) ^ c[1] ^ np.uint64(k[0]), p1 & low, (p0 >> shift) ^ c[3] ^ np.uint64(k[1]), p0 & low]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, axis=1).astype(np.uint32)
