"""Bands of sketches: one key of 64 bits for each band of each sketch.

Two sketches become a candidate pair where all `rows` values of one band agree (Broder 1997; Leskovec, Rajaraman and
Ullman, Mining of Massive Datasets, 3.4).
"""

import numpy as np

from nearhash.kernels.hashes import GOLDEN, fmix64
from nearhash.kernels.jit import jit, jit_inline
from nearhash.kernels.simd import pointer


@jit_inline
def absorb(key, word):
    """A bijection of uint64 `key` for each `word` and of `word` for each `key`; weak, to be followed by `fmix64`."""
    key = (key ^ word) * GOLDEN
    return key ^ (key >> np.uint64(32))


@jit
def band_keys(values, bands, rows, seed, out):
    """Keys of the bands of sketches.

    values (n, k) uint8, uint16 or uint32, ``k >= bands * rows``, of which the rest is not read; seed uint64; out
    (n, bands) uint64. A band is read as words of 64 bits, its first value lowest: a key starts as the hash of seed and
    band, absorbs the words and is mixed by `fmix64`. So bands that differ in one word never share a key.
    """
    width, bits = values.shape[1], 8 * values.itemsize
    in_word = 64 // bits
    starts = np.empty(bands, np.uint64)
    for band in range(bands):
        starts[band] = fmix64(seed + GOLDEN * np.uint64(band + 1))
    for row in range(values.shape[0]):
        source = pointer(values, row * width)
        target = pointer(out, row * bands)
        for band in range(bands):
            key = starts[band]
            first, stop = band * rows, (band + 1) * rows
            while first + in_word <= stop:
                word = np.uint64(0)
                for i in range(in_word):
                    word |= np.uint64(source[first + i]) << np.uint64(i * bits)
                key = absorb(key, word)
                first += in_word
            if first < stop:
                word = np.uint64(0)
                for i in range(stop - first):
                    word |= np.uint64(source[first + i]) << np.uint64(i * bits)
                key = absorb(key, word)
            target[band] = fmix64(key)
