"""NumPy specification of `bands.py`, `radix.py` and `union_find.py`."""

import numpy as np

from nearhash.kernels.reference_hashes import fmix64


def band_keys(values, bands, rows, seed):
    """(n, bands) uint64 keys of the bands of sketches (n, k)."""
    golden, bits = 0x9E3779B97F4A7C15, 8 * values.dtype.itemsize
    out = np.empty((len(values), bands), np.uint64)
    for band in range(bands):
        part = values[:, band * rows : (band + 1) * rows].astype(np.uint64)
        key = np.full(len(values), fmix64(np.uint64((seed + golden * (band + 1)) % 2**64)))
        for first in range(0, rows, 64 // bits):
            word = np.zeros(len(values), np.uint64)
            for place, column in enumerate(part.T[first : first + 64 // bits]):
                word |= column << np.uint64(bits * place)
            key = (key ^ word) * np.uint64(golden)
            key ^= key >> np.uint64(32)
        out[:, band] = fmix64(key)
    return out


def sort_pairs(keys, numbers, low_bit):
    """Pairs in the order of their keys without the lowest bits; those of equal keys stay in their order."""
    order = np.argsort(keys >> np.uint64(low_bit), kind="stable")
    return keys[order], numbers[order]


def components(count, edges):
    """(count,) the lowest node that each is connected to."""
    lowest = np.arange(count)
    for _ in range(count):
        before = lowest.copy()
        for left, right in edges:
            lowest[left] = lowest[right] = min(lowest[left], lowest[right])
        if (lowest == before).all():
            break
    return lowest
