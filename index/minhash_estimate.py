"""Similarity of sets, from how many values of their sketches agree."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def unpacked(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """One value in each element, (n, k) or a few more; below 8 bits they come packed, the lowest bits first."""
    if bits >= 8:
        return values
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (values[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return fields.reshape(len(values), -1)


@lru_cache
def zero_fields(bits: int) -> NDArray[np.uint8]:
    """(256,) how many values of `bits` < 8 bits in a byte are 0; empty for larger ones."""
    if bits >= 8:
        return np.empty(0, np.uint8)
    fields = unpacked(np.arange(256, dtype=np.uint8)[:, None], bits)
    return np.asarray((fields == 0).sum(axis=1), np.uint8)


@lru_cache
def jaccard_estimates(k: int, bits: int) -> NDArray[np.float64]:
    """(k + 1,) the similarity of sets of whose k values 0, 1, ... k differ, clipped to [0, 1].

    Values of b bits agree by chance with probability ``C = 2**-b``: ``(agree / k - C) / (1 - C)`` (Li and Koenig 2010).
    """
    chance = 0.0 if bits == 32 else 2.0**-bits
    agree = np.arange(k, -1, -1) / k
    estimates: NDArray[np.float64] = np.clip((agree - chance) / (1 - chance), 0.0, 1.0)
    return estimates


@lru_cache
def least_agreement(threshold: float, k: int, bits: int) -> int:
    """Values of k that must agree for an estimate of at least `threshold`."""
    return k + 1 - int(np.count_nonzero(jaccard_estimates(k, bits) >= threshold))
